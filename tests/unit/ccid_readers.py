"""A reader that leaves everything to the host, for tests to vary."""

from pypcscd_ccid.descriptor import Descriptor, Feature, Level

READER = Descriptor(
    version=0x110,
    slots=1,
    voltages=7,
    protocols=3,
    default_clock=4000,
    maximum_clock=4000,
    default_rate=10752,
    maximum_rate=344086,
    rate_count=0,
    declared_ifsd=254,
    features=Feature(0),
    level=Level.TPDU,
    max_message=271,
    class_get_response=0,
    class_envelope=0,
    lcd_layout=0,
    pin_support=0,
    declared_busy_slots=1,
)
