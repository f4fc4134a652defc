import Glibc

/// A program of `Tests/Programs`, compiled for one test. The machine's own compiler does it, as a user's would.
public final class CompiledProgram: Sendable {
    /// The directory of the sources: beside the one this file is in.
    public static let sources: String = {
        let top = #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(2).joined(separator: "/")
        return top + "/Programs"
    }()

    /// Where the executable is.
    public let path: String
    private let directory: String

    /// Compiles `NAME.c`. Blocks. Throws ``MountFailure`` with what the compiler said.
    public init(_ name: String) throws {
        let place = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        var template = Array("\(place)/cardfs-program-XXXXXX".utf8CString)
        guard let made = mkdtemp(&template) else { throw MountFailure(description: "no directory in \(place)") }
        directory = String(cString: made)
        path = directory + "/" + name
        let arguments = ["/usr/bin/cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", path, "\(Self.sources)/\(name).c"]
        let result = BoundedProcess.run(arguments, timeout: .seconds(60))
        guard result.status == 0 else {
            rmdir(directory)
            throw MountFailure(description: "\(name).c: \(result.errors)")
        }
    }

    deinit {
        unlink(path)
        rmdir(directory)
    }
}
