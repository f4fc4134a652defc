import CardFS
import Glibc
import Logging

/// The directory a card is mounted on.
enum Mountpoint {
    /// Makes sure that a card can be mounted on a directory, and returns its absolute path. A mount there whose daemon has
    /// died is detached.
    static func prepare(_ path: String, logger: Logger) throws(Refusal) -> String {
        let place = try MountPath.resolve(path)
        // Each turn takes one dead mount away; there are as many as daemons have died here.
        for _ in 0..<16 {
            let top = MountTable.current().top(at: place)
            switch BoundedStat.look(at: place, seconds: 5) {
            case .failed(ECONNABORTED) where top?.isCardFS == true:
                // The daemon died while it was asked; the next look finds it dead.
                continue
            case .failed(ENOTCONN) where top?.isCardFS == true:
                guard try Unmounting.unmount(place, lazily: true) == 0 else {
                    throw Refusal("\(place) has a dead mount that cannot be detached", hint: "umount -l \(place)")
                }
                logger.notice("detached the mount on \(place), whose daemon had died")
            case .failed(let code):
                throw Refusal("\(place): \(errnoMeaning(code))", hint: hint(code, place))
            case .noAnswer:
                throw Refusal("\(place) does not answer", hint: "cardfs unmount --force \(place)")
            case .found(_) where top?.isCardFS == true:
                let source = top?.source ?? "a card"
                throw Refusal("\(source) is mounted on \(place) already", hint: "cardfs unmount \(place)")
            case .found(let isDirectory):
                guard isDirectory else {
                    throw Refusal("\(place) is not a directory", hint: "mount on an empty directory")
                }
                return place
            }
        }
        throw Refusal("\(place) has more dead mounts than can be detached", hint: "umount -l \(place)")
    }

    private static func hint(_ code: CInt, _ place: String) -> String? {
        switch code {
        case ENOENT: "mkdir -p \(place)"
        case ENOTCONN: "umount -l \(place) takes the dead mount away"
        default: nil
        }
    }
}
