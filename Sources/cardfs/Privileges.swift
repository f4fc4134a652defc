import CHardware
import CardFS
import Glibc
import Logging

/// What the daemon of a mount keeps of root's privileges.
///
/// The daemon of another user has none to begin with. It unmounts with fusermount3, which is setuid, so that nothing is forbidden
/// to it that would take this away: neither new privileges nor system calls.
enum Privileges {
    // Of linux/capability.h, as bits.
    private static let override: UInt64 = 1 << 1
    private static let search: UInt64 = 1 << 2
    private static let lockMemory: UInt64 = 1 << 14
    private static let administration: UInt64 = 1 << 21

    /// Gives up what is not needed from here on. Capabilities are a thread's, so this comes before any other thread starts.
    ///
    /// CAP_SYS_ADMIN stays, since mounting and unmounting need it; the right to search directories where the mount point lies in
    /// one of another user; and for a card of this machine the right to open its files in /dev/vfio again, whosever they are.
    static func reduce(for card: CardName, mountpoint: String, logger: Logger) {
        let held = chw_capabilities()
        guard geteuid() == 0, held & administration != 0 else { return }
        var kept = administration
        if card != .simulated {
            kept |= override
            // What the card reaches is counted against this limit, also after a stop and a start.
            var unlimited = rlimit(rlim_cur: .max, rlim_max: .max)
            if setrlimit(__rlimit_resource_t(__RLIMIT_MEMLOCK.rawValue), &unlimited) != 0 { kept |= lockMemory }
        }
        var code = chw_set_capabilities(kept & held, held)
        if code == 0 {
            var status = stat()
            if stat(mountpoint, &status) != 0, errno == EACCES { kept |= search }
            // Taking capabilities out of the bounding set is a privilege itself.
            _ = chw_set_capabilities(held, held)
            code = chw_forbid_privileges(kept & held)
        }
        if code == 0 { code = chw_set_capabilities(kept & held, kept & held) }
        if code != 0 { logger.warning("privileges are kept: \(errnoMeaning(code))") }
    }

    /// Lets all threads of the daemon of a simulated card make only the system calls that it needs from here on. (A card of this
    /// machine is reached by too many.)
    static func filterSystemCalls(for card: CardName, logger: Logger) {
        guard card == .simulated, geteuid() == 0, chw_capabilities() & administration != 0 else { return }
        let code = chw_filter_system_calls()
        if code != 0 { logger.notice("system calls are not filtered: \(errnoMeaning(code))") }
    }
}
