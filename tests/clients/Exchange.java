// Exchange APDUs through javax.smartcardio. See README.md for the command line.

import java.util.HexFormat;
import javax.smartcardio.Card;
import javax.smartcardio.CardChannel;
import javax.smartcardio.CardTerminal;
import javax.smartcardio.CommandAPDU;
import javax.smartcardio.TerminalFactory;

public class Exchange {
    private static final HexFormat HEX = HexFormat.of().withUpperCase();

    public static void main(String[] args) throws Exception {
        CardTerminal chosen = null;
        for (CardTerminal terminal : TerminalFactory.getDefault().terminals().list()) {
            System.out.println("reader " + terminal.getName());
            if (chosen == null && terminal.getName().contains(args[0])) {
                chosen = terminal;
            }
        }
        if (chosen == null || !chosen.waitForCardPresent(5000)) {
            throw new IllegalStateException("no card in a reader " + args[0]);
        }
        Card card = chosen.connect("*");
        System.out.println("atr " + HEX.formatHex(card.getATR().getBytes()));
        card.beginExclusive();
        CardChannel channel = card.getBasicChannel();
        for (int i = 1; i < args.length; i++) {
            byte[] answer = channel.transmit(new CommandAPDU(HEX.parseHex(args[i]))).getBytes();
            System.out.println("answer " + HEX.formatHex(answer));
        }
        card.endExclusive();
        card.disconnect(false);
    }
}
