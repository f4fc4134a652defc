import DriverCore
import Synchronization

/// What is counted for each user: an index into ``ResourceCounts``.
struct SharedResource: Equatable {
    /// Small, since it is a part of what the data path answers.
    private let number: UInt8

    /// Its place in ``all``.
    var index: Int { @_noLocks get { Int(number) } }

    @_noLocks init(index: UInt8) { number = index }

    /// Open files.
    static var files: Self { @_noLocks get { Self(index: 0) } }
    /// Reads of a stream that wait, or are being answered.
    static var reads: Self { @_noLocks get { Self(index: 1) } }
    /// Writes to a stream that wait for the card.
    static var writes: Self { @_noLocks get { Self(index: 2) } }
    /// fsync and close that wait for what was written.
    static var barriers: Self { @_noLocks get { Self(index: 3) } }
    /// Buffers of ``PayloadArena/payloadByteCount`` bytes that hold the payload of a request.
    static var buffers: Self { @_noLocks get { Self(index: 4) } }
    /// Reads that wait for a line.
    static var lineReads: Self { @_noLocks get { Self(index: 5) } }
    /// Writes that wait until a command is carried out.
    static var commands: Self { @_noLocks get { Self(index: 6) } }

    /// What a request of a stream counts as.
    @_noLocks static func of(_ kind: RequestKind) -> Self {
        switch kind {
        case .read: .reads
        case .write: .writes
        case .barrier, .close: .barriers
        }
    }

    /// The resource's label in `metrics.prom`.
    var name: String { Self.names[index] }

    private static let names = ["files", "reads", "writes", "barriers", "buffers", "line_reads", "commands"]

    static let all = (0..<UInt8(count)).map { Self(index: $0) }
    static var count: Int { @_noLocks get { 7 } }
}

/// A count of each ``SharedResource``.
struct ResourceCounts: ~Copyable {
    private let values: UnsafeMutablePointer<Atomic<Int>>

    init() {
        values = .allocate(capacity: SharedResource.count)
        for index in 0..<SharedResource.count { (values + index).initialize(to: Atomic(0)) }
    }

    deinit {
        values.deinitialize(count: SharedResource.count)
        values.deallocate()
    }

    @_noLocks func add(_ resource: SharedResource) -> Int {
        values[resource.index].wrappingAdd(1, ordering: .relaxed).newValue
    }

    @_noLocks func subtract(_ resource: SharedResource) {
        values[resource.index].wrappingSubtract(1, ordering: .relaxed)
    }

    /// Keeps the larger number. Of two threads that come at once either may win.
    @_noLocks func keepMost(_ resource: SharedResource, _ count: Int) {
        if count > value(resource) { values[resource.index].store(count, ordering: .relaxed) }
    }

    @_noLocks func value(_ resource: SharedResource) -> Int { values[resource.index].load(ordering: .relaxed) }

    var isZero: Bool { SharedResource.all.allSatisfy { value($0) == 0 } }
}

/// How much of each resource there is, and how much of it one user may have.
struct UserLimits {
    /// What there is for everybody together.
    private(set) var total: [Int]
    /// What one user may have who is neither root nor the mount's owner.
    private(set) var user: [Int]

    /// Takes the limits of a mount whose card has so many records of requests and receive buffers.
    init(_ options: MountOptions, requests: Int, receiveBuffers: Int) {
        total = Array(repeating: 0, count: SharedResource.count)
        user = total
        func set(_ resource: SharedResource, _ total: Int, _ user: Int) {
            self.total[resource.index] = total
            self.user[resource.index] = min(user, total)
        }
        set(.files, HandleTable.capacity, options.userFiles)
        let (reads, writes) = (requests / 2, requests / 3)
        set(.reads, reads, options.userRequests)
        set(.writes, writes, options.userRequests)
        set(.barriers, requests - reads - writes, options.userRequests)
        // A part of the buffers holds what the card has still to take of writes that were answered.
        let buffers = max(1, receiveBuffers * 3 / 4 - options.receiveThreads - options.reservedBuffers)
        set(.buffers, buffers, options.userByteCount / PayloadArena.payloadByteCount)
        // These take little memory and nothing of the card.
        set(.lineReads, 1 << 16, options.userRequests)
        set(.commands, 1 << 12, options.userRequests)
    }

    /// What all users but root and the owner may have together: a quarter is kept for those two.
    func together(_ resource: SharedResource) -> Int { total[resource.index] - total[resource.index] / 4 }
}

/// What the users of a mount have at a time, counted by the file-system user ID of each request, so that no user takes it
/// all from the others.
///
/// One user has at most what the mount options say. All users but root and the mount's owner have at most three quarters
/// together; those two have no limits of their own. Users are kept apart as long as there are places in the table; beyond that,
/// those who come share one account.
struct UserShares: ~Copyable {
    /// What one user has.
    struct Account: ~Copyable {
        /// The user's ID and 1; 0 while this is nobody's.
        fileprivate let key = Atomic<UInt64>(0)
        let counts = ResourceCounts()

        /// The user whose account this is; nil for the one that users share.
        var user: UInt32? {
            let key = key.load(ordering: .relaxed)
            return key == 0 ? nil : UInt32(truncatingIfNeeded: key - 1)
        }
    }

    /// What speaks against a request.
    enum Reach {
        /// The user has as much as one user may.
        case user
        /// The users who are neither root nor the owner have as much as they may together.
        case together
        /// The mount has no more of it to give.
        case all
    }

    /// How an attempt to take something ended.
    enum Outcome {
        /// It is counted, in an account or, for root and the owner, in none.
        case taken(UnsafeMutablePointer<Account>?)
        /// It is not.
        case refused(Reach)
    }

    private static var setCount: Int { @_noLocks get { 64 } }
    private static var waysOfSet: Int { @_noLocks get { 8 } }

    private let owner: UInt32
    private let limits: UserLimits
    private let userLimits: UnsafeMutablePointer<Int>
    private let togetherLimits: UnsafeMutablePointer<Int>
    private let totalLimits: UnsafeMutablePointer<Int>
    private let accounts: UnsafeMutablePointer<Account>
    private let all = ResourceCounts()
    private let together = ResourceCounts()
    /// The most there was of everything at a time, of all and of one user.
    private let mostOfAll = ResourceCounts()
    private let mostOfUser = ResourceCounts()
    private let refusals = ResourceCounts()

    /// Makes the accounts of a mount that `owner` has made.
    init(owner: UInt32, limits: UserLimits) {
        self.owner = owner
        self.limits = limits
        let count = SharedResource.count
        userLimits = .allocate(capacity: count)
        togetherLimits = .allocate(capacity: count)
        totalLimits = .allocate(capacity: count)
        for resource in SharedResource.all {
            (userLimits + resource.index).initialize(to: limits.user[resource.index])
            (togetherLimits + resource.index).initialize(to: limits.together(resource))
            (totalLimits + resource.index).initialize(to: limits.total[resource.index])
        }
        let accountCount = Self.setCount * Self.waysOfSet + 1
        accounts = .allocate(capacity: accountCount)
        for index in 0..<accountCount { (accounts + index).initialize(to: Account()) }
    }

    deinit {
        accounts.deinitialize(count: Self.setCount * Self.waysOfSet + 1)
        accounts.deallocate()
        userLimits.deallocate()
        togetherLimits.deallocate()
        totalLimits.deallocate()
    }

    /// Counts one more for a user, if that one may have it. Does not block.
    @_noLocks func take(_ resource: SharedResource, _ user: UInt32) -> Outcome {
        take(resource, in: user == 0 || user == owner ? nil : account(of: user))
    }

    /// Counts one more in an account that ``take(_:_:)`` has told.
    @_noLocks func take(_ resource: SharedResource, in account: UnsafeMutablePointer<Account>?) -> Outcome {
        let index = resource.index
        if let account {
            let count = account.pointee.counts.add(resource)
            guard count <= userLimits[index] else {
                account.pointee.counts.subtract(resource)
                return refuse(resource, .user)
            }
            guard together.add(resource) <= togetherLimits[index] else {
                together.subtract(resource)
                account.pointee.counts.subtract(resource)
                return refuse(resource, .together)
            }
            mostOfUser.keepMost(resource, count)
        }
        let count = all.add(resource)
        guard count <= totalLimits[index] else {
            give(resource, account)
            return refuse(resource, .all)
        }
        mostOfAll.keepMost(resource, count)
        return .taken(account)
    }

    @_noLocks private func refuse(_ resource: SharedResource, _ reach: Reach) -> Outcome {
        _ = refusals.add(resource)
        return .refused(reach)
    }

    /// Counts one less, in the account that ``take(_:_:)`` has told.
    @_noLocks func give(_ resource: SharedResource, _ account: UnsafeMutablePointer<Account>?) {
        all.subtract(resource)
        guard let account else { return }
        together.subtract(resource)
        account.pointee.counts.subtract(resource)
    }

    /// The account of a user. One that has nothing counted may become another user's; who counts in it at that moment is counted
    /// for the other, and taken off there.
    @_noLocks private func account(of user: UInt32) -> UnsafeMutablePointer<Account> {
        let key = UInt64(user) &+ 1
        let set = accounts + Int(truncatingIfNeeded: (key &* 0x9e37_79b9_7f4a_7c15) &>> 58) &* Self.waysOfSet
        var way = 0
        while way < Self.waysOfSet {
            if set[way].key.load(ordering: .relaxed) == key { return set + way }
            way &+= 1
        }
        way = 0
        while way < Self.waysOfSet {
            let old = set[way].key.load(ordering: .relaxed)
            if old == key { return set + way }
            if old == 0 || isIdle(set + way),
                set[way].key.compareExchange(expected: old, desired: key, ordering: .relaxed).exchanged
            {
                return set + way
            }
            way &+= 1
        }
        return accounts + Self.setCount &* Self.waysOfSet
    }

    @_noLocks private func isIdle(_ account: UnsafeMutablePointer<Account>) -> Bool {
        var index = 0
        while index < SharedResource.count {
            if account.pointee.counts.value(SharedResource(index: UInt8(truncatingIfNeeded: index))) != 0 {
                return false
            }
            index &+= 1
        }
        return true
    }
}

// What is told of the accounts.
extension UserShares {
    /// What is told of a resource in `metrics.prom`.
    struct Figures {
        /// What there is, what one user may have, and what users may have together.
        var total, user, together: Int
        /// What all have now, and the most they had at a time.
        var now, most: Int
        /// The most that one user had who is neither root nor the owner.
        var mostOfUser: Int
        /// How often somebody was refused.
        var refusals: Int
    }

    /// The figures of a resource.
    func figures(_ resource: SharedResource) -> Figures {
        Figures(
            total: limits.total[resource.index],
            user: limits.user[resource.index],
            together: limits.together(resource),
            now: all.value(resource),
            most: mostOfAll.value(resource),
            mostOfUser: mostOfUser.value(resource),
            refusals: refusals.value(resource)
        )
    }

    /// What a person is told of a refusal: which limit was reached, by whom, and what raises it.
    func sentence(_ resource: SharedResource, _ reach: Reach, _ user: UInt32) -> String {
        let figures = figures(resource)
        let (what, option) = Self.words(resource)
        switch reach {
        case .user:
            return
                "user \(user) has \(figures.user) \(what), as many as one user may have: -o \(option) at the mount raises it"
        case .together:
            return
                "the users besides root and the owner of the mount have \(figures.together) \(what)\(mostOf(resource)), as many as"
                + " they may have together"
        case .all:
            return "there are \(figures.total) \(what)\(mostOf(resource)), as many as there can be"
        }
    }

    /// The words for a resource, and the option that limits it.
    private static func words(_ resource: SharedResource) -> (what: String, option: String) {
        switch resource {
        case .files: ("files of the card open", "user_files=")
        case .reads: ("reads of dma/rx waiting", "user_requests=")
        case .writes: ("writes to dma/tx waiting", "user_requests=")
        case .barriers: ("calls of fsync and close waiting", "user_requests=")
        case .buffers: ("MiB of payload in requests that wait", "user_memory=")
        case .lineReads: ("reads of interrupts/log and trace waiting", "user_requests=")
        default: ("commands waiting", "user_requests=")
        }
    }

    /// Who has most of it, other than root and the owner.
    private func mostOf(_ resource: SharedResource) -> String {
        var most: (user: UInt32, count: Int)?
        for index in 0..<Self.setCount * Self.waysOfSet {
            let count = accounts[index].counts.value(resource)
            guard let user = accounts[index].user, count > most?.count ?? 0 else { continue }
            most = (user, count)
        }
        return most.map { ", user \($0.user) has \($0.count) of them" } ?? ""
    }
}
