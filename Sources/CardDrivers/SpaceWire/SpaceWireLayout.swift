import PCIBus

/// The registers and descriptors of the SpaceWire Light core with its AMBA interface (J. van Rantwijk, version 20130504),
/// and the registers of the card around it. Offsets are in BAR0; nothing but numbers lives here.
enum SpaceWireLayout {
    /// Control register.
    static var control: UInt64 { @_noLocks get { 0x00 } }
    /// Status register.
    static var status: UInt64 { @_noLocks get { 0x04 } }
    /// Transmit clock scaler.
    static var txScaler: UInt64 { @_noLocks get { 0x08 } }
    /// Time-code register.
    static var timeCode: UInt64 { @_noLocks get { 0x0c } }
    /// Logical address of the next receive descriptor.
    static var rxDescriptorPointer: UInt64 { @_noLocks get { 0x10 } }
    /// Logical address of the next transmit descriptor.
    static var txDescriptorPointer: UInt64 { @_noLocks get { 0x14 } }
    /// Identification; `identity` on the card this driver was written for, anything on a bare core.
    static var id: UInt64 { @_noLocks get { 0x100 } }
    /// Version of the card.
    static var version: UInt64 { @_noLocks get { 0x104 } }
    /// A register without effect.
    static var scratch: UInt64 { @_noLocks get { 0x108 } }
    /// Flow control: bit 0 the transmitter has no credit, bit 1 the receiver has no descriptor.
    static var flow: UInt64 { @_noLocks get { 0x10c } }
    /// Which engines the machine's slave DMA controller serves: bit 0 the transmitter, bit 1 the receiver. Bit 2: the receiver ends
    /// the packet it is in, and begins no other.
    static var slave: UInt64 { @_noLocks get { 0x110 } }
    /// Bytes of a piece to send through it, bit 31 with an end of packet behind, bit 30 with an error end.
    static var slaveSend: UInt64 { @_noLocks get { 0x114 } }
    /// Bytes more that the receiver may deliver through it.
    static var slaveCredit: UInt64 { @_noLocks get { 0x118 } }
    /// Read: the oldest packet delivered through it, see ``Packet``.
    static var slavePacket: UInt64 { @_noLocks get { 0x11c } }
    /// Bytes of descriptors the transmitter is done with since the core was reset, modulo 2^32.
    static var bytesTaken: UInt64 { @_noLocks get { 0x120 } }
    /// Bytes the receiver has stored since the core was reset, modulo 2^32.
    static var bytesStored: UInt64 { @_noLocks get { 0x124 } }
    /// Bit 0 the transmitter is in a packet, bit 1 the receiver is.
    static var packets: UInt64 { @_noLocks get { 0x128 } }
    /// The value of ``id``: "SPWC".
    static let identity: UInt32 = 0x5350_5743
    /// The first memory window of the original card (PCIE_WRITE_MEMORY_OFFSET), 8 KiB.
    static let writeMemory: UInt64 = 0x20000
    /// The second memory window (PCIE_READ_MEMORY_OFFSET), 8 KiB.
    static let readMemory: UInt64 = 0x22000
    /// Bytes of each memory window.
    static let memoryByteCount: UInt64 = 0x2000

    /// Bits of ``packets``.
    enum Packets {
        static var sending: UInt32 { @_noLocks get { 1 << 0 } }
        static var receiving: UInt32 { @_noLocks get { 1 << 1 } }
    }

    /// Bits of ``slave``.
    enum Slave {
        static var bothEngines: UInt32 { @_noLocks get { 3 } }
        static var beginsNoPacket: UInt32 { @_noLocks get { 1 << 2 } }
    }

    /// Bits of the control register. Those that start something clear themselves.
    enum Control {
        static var reset: UInt32 { @_noLocks get { 1 << 0 } }
        static var dmaReset: UInt32 { @_noLocks get { 1 << 1 } }
        static var linkStart: UInt32 { @_noLocks get { 1 << 2 } }
        static var autoStart: UInt32 { @_noLocks get { 1 << 3 } }
        static var linkDisable: UInt32 { @_noLocks get { 1 << 4 } }
        static var tickInEnable: UInt32 { @_noLocks get { 1 << 5 } }
        static var receiveStart: UInt32 { @_noLocks get { 1 << 6 } }
        static var transmitStart: UInt32 { @_noLocks get { 1 << 7 } }
        static var transmitCancel: UInt32 { @_noLocks get { 1 << 8 } }
        static var interruptOnLink: UInt32 { @_noLocks get { 1 << 9 } }
        static var interruptOnTimeCode: UInt32 { @_noLocks get { 1 << 10 } }
        static var interruptOnReceive: UInt32 { @_noLocks get { 1 << 11 } }
        static var interruptOnTransmit: UInt32 { @_noLocks get { 1 << 12 } }
        static var interruptOnPacket: UInt32 { @_noLocks get { 1 << 13 } }
        /// The interrupts that the driver wants.
        static var driverInterrupts: UInt32 {
            @_noLocks get { interruptOnLink | interruptOnTimeCode | interruptOnReceive | interruptOnTransmit }
        }
        /// How the link is started, and whether a pin sends time-codes.
        static var linkMode: UInt32 { @_noLocks get { linkStart | autoStart | linkDisable | tickInEnable } }
        /// All that the register keeps.
        static var kept: UInt32 {
            @_noLocks get {
                linkMode | interruptOnLink | interruptOnTimeCode | interruptOnReceive | interruptOnTransmit
                    | interruptOnPacket
            }
        }
    }

    /// Bits of the status register. 2…5 and 10…13 are cleared by writing 1.
    enum Status {
        static var linkMask: UInt32 { @_noLocks get { 3 } }
        static var linkRun: UInt32 { @_noLocks get { 3 } }
        static var transmitRunning: UInt32 { @_noLocks get { 1 << 7 } }
        static var busError: UInt32 { @_noLocks get { 1 << 8 } }
        static var receiveDescriptor: UInt32 { @_noLocks get { 1 << 11 } }
        static var transmitDescriptor: UInt32 { @_noLocks get { 1 << 12 } }
        static var receivePacket: UInt32 { @_noLocks get { 1 << 13 } }
        static var receiverEmpty: UInt32 { @_noLocks get { 1 << 14 } }
        static var linkErrors: UInt32 { @_noLocks get { 0xf << 2 } }
        static var disconnectError: UInt32 { @_noLocks get { 1 << 2 } }
        static var parityError: UInt32 { @_noLocks get { 1 << 3 } }
        static var escapeError: UInt32 { @_noLocks get { 1 << 4 } }
        static var creditError: UInt32 { @_noLocks get { 1 << 5 } }
        static var timeCode: UInt32 { @_noLocks get { 1 << 10 } }
        static var sticky: UInt32 { @_noLocks get { 0xf << 2 | 0xf << 10 } }
    }

    /// Bits of a descriptor's first word; its second is the logical address, a multiple of 4.
    enum Descriptor {
        static var lengthMask: UInt32 { @_noLocks get { 0xffff } }
        static var enable: UInt32 { @_noLocks get { 1 << 16 } }
        static var wrap: UInt32 { @_noLocks get { 1 << 17 } }
        static var interrupt: UInt32 { @_noLocks get { 1 << 18 } }
        static var done: UInt32 { @_noLocks get { 1 << 19 } }
        static var eop: UInt32 { @_noLocks get { 1 << 20 } }
        static var eep: UInt32 { @_noLocks get { 1 << 21 } }
    }

    /// Where the registers of the core end.
    static let coreByteCount: UInt64 = 0x20
    /// The bits of ``timeCode`` that say which one is sent next.
    static let nextTimeCode: UInt32 = 0x3f << 8

    /// Bits of ``slavePacket``.
    enum Packet {
        /// Bytes of a packet, or of the piece of one that is longer than can be counted here.
        static var lengthMask: UInt32 { @_noLocks get { 0x1fff_ffff } }
        /// A piece: the packet goes on behind it.
        static var goesOn: UInt32 { @_noLocks get { 1 << 29 } }
        /// It ended in EEP.
        static var eep: UInt32 { @_noLocks get { 1 << 30 } }
        /// There was one.
        static var isThere: UInt32 { @_noLocks get { 1 << 31 } }
    }

    /// Descriptor tables are 1024 entries long and aligned to their size.
    static let tableByteCount = 8192
    /// Bytes of one descriptor.
    static var descriptorByteCount: Int { @_noLocks get { 8 } }
    /// The most bytes one transmit descriptor is given: fifteen pages, the most whole pages that 16 bits can count.
    static var fragmentByteCount: Int { @_noLocks get { 15 * 4096 } }

    /// What the vectors stand for where the card has four of them; with a single vector it stands for all.
    enum Vector {
        static var transmit: UInt32 { @_noLocks get { 0 } }
        static var receive: UInt32 { @_noLocks get { 1 } }
        static var link: UInt32 { @_noLocks get { 2 } }
        static var busError: UInt32 { @_noLocks get { 3 } }
        /// With fewer, one vector tells of everything.
        static var count: Int { @_noLocks get { 4 } }
    }
}
