"""Which driver drives a USB interface: the one that a rule names, a vendor's, our own, or libccid."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from pypcscd.driver import DeviceConfig
from pypcscd.hotplug import names, settings
from pypcscd.hotplug.bundles import Bundle
from pypcscd.hotplug.interface import UsbInterface
from pypcscd.hotplug.settings import UsbRule, UsbSettings

_CCID_CLASS = 0x0B
_VENDOR_CLASS = 0xFF
#: CCID readers that hide behind the vendor's class: (idVendor, idProduct)
_VENDOR_CLASS_READERS = frozenset(
    {
        (0x046A, 0x003E),
        (0x04E6, 0x5111),
        (0x04E6, 0x511A),
        (0x04E6, 0x5120),
        (0x04E6, 0x5121),
        (0x04E6, 0x512B),
        (0x04E6, 0x512C),
        (0x04E6, 0xE003),
        (0x08E6, 0x1359),
        (0x08E6, 0x2202),
        (0x08E6, 0xACE0),
        (0x0973, 0x0003),
        (0x09BE, 0x0002),
        (0x1A74, 0x6354),
        (0x413C, 0x2100),
    }
)
#: a bulk pipe in each direction
_LEAST_ENDPOINTS = 2
#: what pcscd gives to drivers that find their device by themselves (API 2.0): the first of the USB readers
_FIRST_USB_CHANNEL = 0x200000
#: the readers of our CCID driver and of libccid are numbered together: under pcscd all are libccid's
_CCID_NUMBERING = "ccid"


@dataclass(frozen=True)
class Match:
    """What is to be done with an interface."""

    #: to be tried in this order, the first that opens counts; all have one name and one numbering.
    #: Empty: it is left alone.
    configs: tuple[DeviceConfig, ...] = ()
    #: why it is left alone, as a line for the log; "" if that deserves none
    why: str = ""


class Matcher:
    """Knows the drivers that are there and what the administrator wants."""

    def __init__(self, bundles: Iterable[Bundle], wishes: UsbSettings) -> None:
        """``bundles``: as from ``load_bundles``; of two that list the same reader the first counts."""
        bundles = tuple(bundles)
        self._vendors = [bundle for bundle in bundles if not bundle.is_class_driver]
        self._class_drivers = [bundle for bundle in bundles if bundle.is_class_driver]
        self._wishes = wishes

    def match(self, interface: UsbInterface) -> Match:
        """The drivers for an interface, or why there is none."""
        vendor = _find(self._vendors, interface)
        class_driver = _find(self._class_drivers, interface)
        listed = vendor or class_driver
        friendly = None if listed is None else listed.readers[interface.vendor, interface.product]
        base = names.base_name(interface, friendly, self._wishes)
        rule = next((rule for rule in self._wishes.rules if rule.matches(interface, base)), UsbRule())
        choice = _Choice(interface, rule, vendor, class_driver, bool(self._class_drivers))
        match = choice.match()
        if match != Match() and (why := self._reason_to_leave(interface, base, rule)):
            match = Match(why=why)
        if match.why:
            return Match(why=f"{base} (USB {interface.sys_name}): left alone, {match.why}")
        numbering = match.configs[0].numbering if match.configs else ""
        return Match(tuple(self._named(config, base, rule, numbering) for config in match.configs))

    def _reason_to_leave(self, interface: UsbInterface, base: str, rule: UsbRule) -> str:
        if interface.is_ignored:
            return "as udev says (PCSCLITE_IGNORE)"
        if rule.driver == settings.IGNORE:
            return f"as {rule.origin} says"
        return names.reason_to_ignore(base, self._wishes)

    def _named(self, config: DeviceConfig, base: str, rule: UsbRule, numbering: str) -> DeviceConfig:
        """The config with name and number, which are the same for all drivers of an interface."""
        others = (other for other in self._wishes.rules if other.rename == rule.rename)
        return replace(
            config,
            name=names.extended(rule.rename or base, self._wishes.name_extension),
            # A name of one's own has numbers of its own: they do not depend on other readers.
            numbering=numbering if rule.rename is None else f"name {rule.rename}",
            number=rule.index,
            spared_numbers=frozenset(other.index for other in others if other.index is not None),
        )


@dataclass(frozen=True)
class _Choice:
    """The drivers that there are for one interface. The configs have no names yet."""

    interface: UsbInterface
    rule: UsbRule
    vendor: Bundle | None
    class_driver: Bundle | None
    #: some class driver is installed, whether or not it lists the reader
    has_libccid: bool

    def match(self) -> Match:
        match self.rule.driver:
            case None | settings.IGNORE:
                return self._usual()
            case settings.CCID:
                return self._ours()
            case settings.LIBCCID:
                return self._libccid()
            case path:
                return self._native_by_rule(path)

    def _usual(self) -> Match:
        """The vendor's driver; should it fail, or if there is none, what CCID readers are driven by."""
        by_class = self._by_class() if self._is_ccid else Match()
        if self.vendor is None:
            return by_class
        library = str(self.vendor.library)
        return Match((self._native(library, library), *by_class.configs))

    def _by_class(self) -> Match:
        if self._has_pipes:
            return Match((self._ccid(),))
        if self.class_driver is not None:
            return Match((self._by_libccid(self.class_driver),))
        lack = "the one that is installed does not know it" if self.has_libccid else "install it"
        return Match(why=f"it is a token without bulk pipes (ICCD), which needs libccid: {lack}")

    def _ours(self) -> Match:
        if not self._may_be_ccid:
            return Match()
        if self._has_pipes:
            return Match((self._ccid(),))
        return Match(
            why=f'without bulk pipes (ICCD) it needs libccid; say driver = "libccid" at {self.rule.origin}'
        )

    def _libccid(self) -> Match:
        if self.interface.kind not in (_CCID_CLASS, _VENDOR_CLASS):
            return Match()
        if self.class_driver is not None:
            return Match((self._by_libccid(self.class_driver),))
        if not self._may_be_ccid:
            return Match()
        lack = "does not know it" if self.has_libccid else "is not installed"
        return Match(why=f"{self.rule.origin} wants libccid for it, which {lack}")

    def _native_by_rule(self, path: str) -> Match:
        if self._is_ccid or self.vendor is not None or self.rule.names_a_device:
            return Match((self._native(path, path),))
        return Match()

    @property
    def _is_ccid(self) -> bool:
        one = self.interface
        return one.kind == _CCID_CLASS or (
            one.kind == _VENDOR_CLASS and (one.vendor, one.product) in _VENDOR_CLASS_READERS
        )

    @property
    def _may_be_ccid(self) -> bool:
        return self._is_ccid or (self.interface.kind == _VENDOR_CLASS and self.rule.names_a_device)

    @property
    def _has_pipes(self) -> bool:
        return self.interface.endpoints >= _LEAST_ENDPOINTS

    def _ccid(self) -> DeviceConfig:
        place = {name: str(getattr(self.interface, name)) for name in ("bus", "address")}
        return DeviceConfig(
            driver="ccid",
            name="",
            numbering=_CCID_NUMBERING,
            options={**self.rule.options, **place, "interface": str(self.interface.number)},
            origin=self._place,
        )

    def _by_libccid(self, bundle: Bundle) -> DeviceConfig:
        return self._native(str(bundle.library), _CCID_NUMBERING)

    def _native(self, library: str, numbering: str) -> DeviceConfig:
        one = self.interface
        is_vendors = one.kind == _VENDOR_CLASS and self.vendor is not None
        return DeviceConfig(
            driver="ifdhandler",
            name="",
            numbering=numbering,
            options={
                "library": library,
                "device": f"usb:{one.vendor:04x}/{one.product:04x}:libudev:{one.number}:{one.node}",
                "channel": str(_FIRST_USB_CHANNEL),
                # pcscd offers keyboards and disks of composite devices to drivers as well
                "doubtful": "no" if self._may_be_ccid or is_vendors else "yes",
            },
            origin=self._place,
        )

    @property
    def _place(self) -> str:
        return f"USB {self.interface.sys_name}"


def _find(bundles: Iterable[Bundle], interface: UsbInterface) -> Bundle | None:
    wanted = (interface.vendor, interface.product)
    return next((bundle for bundle in bundles if wanted in bundle.readers), None)
