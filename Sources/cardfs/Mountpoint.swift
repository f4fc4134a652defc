import CHardware
import CardFS
import Glibc
import Logging

/// The directory a card is mounted on.
enum Mountpoint {
    /// Makes sure that a card can be mounted on a directory. A mount there whose daemon has died is detached.
    ///
    /// - Returns: The directory's absolute path, and the claim that keeps other commands waiting until it is released: they then
    ///   find the mount that was made.
    static func prepare(_ path: String, logger: Logger) throws(Refusal) -> (place: String, claim: MountClaim) {
        let place = try MountPath.resolve(path)
        guard place != "/" else {
            throw Refusal(
                "a card is not mounted on /: programs would not find it there, and could not take it away",
                hint: "mkdir /mnt/card, and mount there",
                kind: .usage
            )
        }
        // A turn takes one dead mount away, or finds what another command has done meanwhile; there are as many as daemons have
        // died here.
        for _ in 0..<16 {
            let top = MountTable.current().top(at: place)
            switch try BoundedStat.look(at: place, seconds: 5) {
            case .failed(ECONNABORTED) where top?.isCardFS == true:
                // The daemon died while it was asked; the next look finds it dead.
                continue
            case .failed(ENOTCONN) where top?.isCardFS == true:
                guard try Unmounting.unmount(place, lazily: true) == 0 else {
                    throw Refusal(
                        "\(place) has a dead mount that cannot be detached",
                        hint: "umount -l \(place)",
                        kind: .busy
                    )
                }
                logger.notice("detached the mount on \(place), whose daemon had died")
            case .failed(let code):
                throw Refusal("\(place): \(errnoMeaning(code))", hint: hint(code, place), kind: .init(errno: code))
            case .noAnswer:
                throw Refusal(
                    "\(place) does not answer",
                    hint: "cardfs unmount --force \(place)",
                    kind: .unavailable
                )
            case .found(_) where top?.isCardFS == true:
                let source = top?.source ?? "a card"
                throw Refusal(
                    "\(source) is mounted on \(place) already",
                    hint: "cardfs unmount \(place)",
                    kind: .busy
                )
            case .found(let isDirectory):
                guard isDirectory else {
                    throw Refusal("\(place) is not a directory", hint: "mount on an empty directory", kind: .absent)
                }
                let claim = try MountClaim(place)
                if MountTable.current().top(at: place)?.id == top?.id { return (place, claim) }
                claim.release()
            }
        }
        throw Refusal(
            "\(place) has more dead mounts than can be detached",
            hint: "umount -l \(place)",
            kind: .busy
        )
    }

    private static func hint(_ code: CInt, _ place: String) -> String? {
        switch code {
        case ENOENT: "mkdir -p \(place)"
        case ENOTCONN: "umount -l \(place) takes the dead mount away"
        default: nil
        }
    }
}

/// A lock on the directory below a mount: of several commands that mount there at once one goes on, and the others wait for
/// what becomes of it. It ends with the process at the latest.
struct MountClaim {
    /// How long another command is waited for: longer than its mount may take.
    private static let seconds = Daemon.secondsUntilReady + 10
    private let descriptor: CInt

    /// Waits for the lock. A directory that may not be read, or on a file system without locks, has none.
    init(_ place: String) throws(Refusal) {
        descriptor = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == EMFILE || errno == ENFILE { throw Refusal("\(place) cannot be opened", code: errno) }
            return
        }
        let deadline = chw_clock_nanoseconds(CLOCK_MONOTONIC) + UInt64(Self.seconds) * 1_000_000_000
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0, errno == EWOULDBLOCK || errno == EINTR {
            guard chw_clock_nanoseconds(CLOCK_MONOTONIC) < deadline else {
                close(descriptor)
                throw Refusal(
                    "another process has kept \(place) locked for \(Self.seconds) seconds",
                    hint: "fuser -v \(place) shows it",
                    kind: .busy
                )
            }
            usleep(10_000)
        }
    }

    /// Lets the others look; not to be called twice.
    func release() { if descriptor >= 0 { close(descriptor) } }
}
