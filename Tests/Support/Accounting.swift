/// The check that nothing is lost without being counted, for every test that moves bytes: whatever was done to a card, at any moment,
/// one rendering of `metrics.prom` adds up.
///
/// - Bytes that writers got rid of: accepted = sent + lost + waiting.
/// - Bytes that came from the card: arrived = read + discarded + waiting. What a reader was answered with, copied or lent, is read.
public enum Accounting {
    /// A function of Python, `balance(text)`, which asserts that both hold in a rendering and answers its numbers by name. It needs
    /// `re`.
    public static let python = #"""
        def balance(text):
            found = re.findall(r"^cardfs_([rt]x_\w+)\{[^}]*\} (\d+)$", text, re.M)
            numbers = {name: int(value) for name, value in found}
            def of(name): return numbers[name + ("_bytes" if name.endswith("waiting") else "_bytes_total")]
            tx = [of("tx_" + name) for name in ("accepted", "sent", "lost", "waiting")]
            rx = [of("rx_" + name) for name in ("arrived", "read", "discarded", "waiting")]
            assert tx[0] == sum(tx[1:]), "accepted %d, sent %d, lost %d, waiting %d" % tuple(tx)
            assert rx[0] == sum(rx[1:]), "arrived %d, read %d, discarded %d, waiting %d" % tuple(rx)
            return numbers

        """#
}
