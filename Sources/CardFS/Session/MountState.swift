import CFuse
import CHardware
import DriverCore
import Glibc
import PCIBus
import Synchronization

/// What the callbacks of the data path need of a mount, at a fixed address: constants, pointers to fixed records, atomics.
struct MountState: ~Copyable {
    let pool: UnsafeMutablePointer<RequestPool>
    let arena: UnsafeMutablePointer<PayloadArena>
    let registers: UnsafeMutablePointer<RegisterSpace>
    /// The steps of requests that are followed.
    let trace: UnsafeMutablePointer<RequestTrace>
    /// How often the card was removed.
    let removals: UnsafeMutablePointer<Atomic<UInt64>>
    let handles: UnsafeMutablePointer<HandleTable>
    /// What each user has.
    let users: UserShares
    /// The user of this process, who can map the card's memory, as root can.
    let daemonUser = geteuid()
    /// The driver's data path; nil for a card without DMA.
    let entry: UnsafeMutablePointer<chw_entry_points>?
    /// Whether programs may look at the receive ring where it lies.
    let lendsRing: Bool
    /// Shorter requests take the buffered path.
    let directThreshold: Int
    /// The window of BAR0 that `bar0` and `offset` reach.
    let windowStart: UInt64
    let windowByteCount: UInt64
    /// The most bytes of a packet, while packets are kept apart; else no limit.
    let packetLimit = Atomic<Int>(.max)
    let maximumPacketLength: Int
    /// The mount's offset in the window.
    let windowOffset = Atomic<UInt64>(0)
    let counters = MountCounters()
    /// Receive buffers that no waiting request may take: the receive threads need one each to go on.
    let reservedBuffers: Int
    /// The receive thread that owns each receive buffer, for handing it another.
    let owners: UnsafeMutablePointer<UnsafeMutablePointer<ReceiveThreadState>?>
    /// The file system, for all that is not on the data path.
    var fileSystem: Unmanaged<CardFileSystem>?

    init(
        device: Device,
        options: MountOptions,
        users: consuming UserShares,
        receiveBuffers: Int,
        maximumPacketLength: Int,
        reservedBuffers: Int
    ) {
        self.users = users
        pool = device.pool
        arena = device.arena
        registers = device.registers
        trace = device.trace
        removals = device.removals
        if let points = device.entryPoints {
            let table = UnsafeMutablePointer<chw_entry_points>.allocate(capacity: 1)
            table.initialize(to: points)
            entry = table
        } else {
            entry = nil
        }
        lendsRing = device.dma?.lendsRing ?? false
        handles = .allocate(capacity: 1)
        handles.initialize(to: HandleTable())
        directThreshold = options.directThreshold
        windowStart = device.registerMap.window.lowerBound
        windowByteCount = device.registerMap.window.upperBound - device.registerMap.window.lowerBound
        self.maximumPacketLength = maximumPacketLength
        self.reservedBuffers = reservedBuffers
        owners = .allocate(capacity: receiveBuffers)
        owners.initialize(repeating: nil, count: receiveBuffers)
    }

    /// Whether a user can map the card's memory, and so may borrow it.
    @_noLocks func mayMapRing(_ user: UInt32) -> Bool { user == 0 || user == daemonUser }

    deinit {
        handles.deinitialize(count: 1)
        handles.deallocate()
        owners.deallocate()
        entry?.deallocate()
    }
}

/// What passed through the file layer.
struct MountCounters: ~Copyable {
    let opens = Atomic<UInt64>(0)
    let registerReads = Atomic<UInt64>(0)
    let registerWrites = Atomic<UInt64>(0)
    let streamReads = Atomic<UInt64>(0)
    let streamWrites = Atomic<UInt64>(0)
    let failures = Atomic<UInt64>(0)
}

/// What a receive thread has.
struct ReceiveThreadState {
    /// The buffer it receives into.
    var buffer: UInt32
    /// The buffer to go on with, when a request took the first.
    var replacement: UInt32?
    /// How long it looks for the next request before it sleeps, in nanoseconds; 0 when it sleeps in the kernel at once.
    var spin: UInt64 = 0
    /// When it stops looking.
    var looksUntil: UInt64 = 0
}

/// How a callback of the data path ended: replied, or a failure that is told off the data path.
enum HotResult {
    /// The request was answered, or is somebody else's to answer.
    case done
    /// A register access was refused.
    case fault(RegisterFault)
    /// A text is no number.
    case number(NumberFailure)
    /// A text is a piece of a line.
    case piece
    /// Anything else that has an errno and a cause.
    case failure(Status, FailureCause)
    /// A number outside the window.
    case outsideWindow
    /// The request would exceed a limit of its user, of all users, or of the mount.
    case refused(SharedResource, UserShares.Reach)
    /// The file was opened before the card was removed.
    case dead
    /// Not on the data path: the rest of the file system sees to it.
    case elsewhere
}
