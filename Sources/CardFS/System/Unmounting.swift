import Glibc

/// Taking a mount away, as root or with fusermount3. Blocks as long as umount2(2) does.
public enum Unmounting {
    // Flags of umount2(2): MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW, which Glibc does not give as numbers everywhere.
    private static let forceFlag: CInt = 1
    private static let detach: CInt = 2
    private static let noFollow: CInt = 8

    /// Takes away what is mounted last at `mountpoint`.
    ///
    /// - Parameters:
    ///   - mountpoint: As mountinfo writes it.
    ///   - lazily: Detaches it now, although it may be busy.
    /// - Returns: 0 or EBUSY.
    /// - Throws: A ``Refusal`` for any other failure.
    public static func unmount(_ mountpoint: String, lazily: Bool) throws(Refusal) -> CInt {
        if umount2(mountpoint, noFollow | (lazily ? detach : 0)) == 0 { return 0 }
        switch errno {
        case EBUSY:
            return EBUSY
        case EPERM:
            return try unmountAsUser(mountpoint, lazily: lazily)
        case let code:
            throw Refusal("\(mountpoint) cannot be unmounted", code: code)
        }
    }

    /// Detaches a mount now and ends its connection, whatever waits for it (MNT_FORCE). Root only; 0 or an errno.
    public static func force(_ mountpoint: String) -> CInt {
        umount2(mountpoint, forceFlag | detach | noFollow) == 0 ? 0 : errno
    }

    private static func unmountAsUser(_ mountpoint: String, lazily: Bool) throws(Refusal) -> CInt {
        let result: ChildProcess.Result
        do throws(Refusal) {
            result = try ChildProcess.run("fusermount3", [lazily ? "-uz" : "-u", "--", mountpoint])
        } catch {
            throw Refusal(error.sentence, hint: error.hint ?? "install fuse3, or unmount as root", kind: error.kind)
        }
        if result.status == 0 { return 0 }
        if result.errors.lowercased().contains("busy") { return EBUSY }
        let reason = result.errors.split(separator: "\n").first.map(String.init) ?? "fusermount3 says \(result.status)"
        throw Refusal(
            "\(mountpoint) cannot be unmounted: \(reason)",
            hint: "who mounted it, or root, can unmount it",
            kind: .denied
        )
    }
}
