import PCIBus
import Testing

@Suite struct PCIAddressTests {
    @Test(arguments: [
        ("0000:02:00.0", "0000:02:00.0"), ("02:1f.7", "0000:02:1f.7"), ("ABCD:ff:00.1", "abcd:ff:00.1"),
    ])
    func `an address is read with and without its domain`(text: String, canonical: String) {
        #expect(PCIAddress(text)?.description == canonical)
    }

    @Test(arguments: [
        "", "sim", "02:20.0", "02:00.8", "2:00.0", "0:02:00.0", "02:00", "+2:00.0", "02:00.0 ", "02:00.0.0",
    ])
    func `what is no address is refused`(text: String) {
        #expect(PCIAddress(text) == nil)
    }
}
