import Glibc
import Testing

@testable import VFIOBus

/// The system calls of the bus on the kernel the tests run on: an error is its errno made negative, everything else what it says.
@Suite struct LinuxKernelTests {
    private let kernel = LinuxKernel()

    @Test func `a file is opened, written and read at an offset, and closed`() {
        var template = Array("/tmp/linux-kernel-XXXXXX".utf8CString)
        Glibc.close(mkstemp(&template))
        let path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        defer { unlink(path) }
        let file = kernel.open(path)
        #expect(file >= 0 && fcntl(file, F_GETFD) & FD_CLOEXEC != 0)
        #expect(kernel.write(file, [1, 2, 3] as [UInt8], 3, at: 5) == 3)
        var bytes = [UInt8](repeating: 9, count: 8)
        #expect(kernel.read(file, &bytes, 8, at: 0) == 8 && bytes == [0, 0, 0, 0, 0, 1, 2, 3])
        #expect(kernel.read(file, &bytes, 8, at: 8) == 0)
        kernel.close(file)
        #expect(kernel.read(file, &bytes, 8, at: 0) == -Int(EBADF))
        #expect(kernel.write(file, bytes, 8, at: 0) == -Int(EBADF))
        #expect(kernel.open(path + ".none") == -ENOENT && kernel.open("/tmp") == -EISDIR)
        #expect(kernel.control(-1, 0, nil) == -EBADF && kernel.control(-1, 0, number: 0) == -EBADF)
    }

    @Test func `the text of a file is its text, that of an empty one is empty, and there is none without a file`() {
        var template = Array("/tmp/linux-kernel-XXXXXX".utf8CString)
        let file = mkstemp(&template)
        let path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        defer {
            unlink(path)
            unlink(path + ".link")
            Glibc.close(file)
        }
        #expect(kernel.text(path) == "")
        #expect(Glibc.write(file, "0x1234\n", 7) == 7 && kernel.text(path) == "0x1234\n")
        #expect(kernel.text(path + ".none") == nil && kernel.text("/tmp") == nil)
        #expect(symlink("../drivers/vfio-pci", path + ".link") == 0)
        #expect(kernel.link(path + ".link") == "../drivers/vfio-pci" && kernel.link(path) == nil)
    }

    @Test(arguments: [4096, 1 << 20, 2 << 20, 5 << 20])
    func `memory is zeroed and the process's own: large memory begins where huge pages do`(byteCount: Int) throws {
        guard case .mapped(let base) = kernel.allocate(byteCount: byteCount, hugePages: false) else {
            Issue.record("no \(byteCount) bytes")
            return
        }
        defer { kernel.unmap(base, byteCount: byteCount) }
        #expect(UInt(bitPattern: base) % (byteCount >= 2 << 20 ? 2 << 20 : 4096) == 0)
        let bytes = UnsafeMutableRawBufferPointer(start: base, count: byteCount)
        #expect(bytes.allSatisfy { $0 == 0 })
        bytes.initializeMemory(as: UInt8.self, repeating: 7)
        // A child must not get a copy, which would leave the card with the other one.
        #expect(try flags(base).contains("dc") && flags(base + (byteCount - 1)).contains("dc"))
    }

    @Test func `what cannot be mapped says why`() {
        guard case .failed(let code) = kernel.map(-1, byteCount: 4096, offset: 0, place: nil) else {
            Issue.record("it was mapped")
            return
        }
        #expect(code == EBADF)
    }

    /// The flags of the mapping an address lies in (`VmFlags` of smaps, proc(5)).
    private func flags(_ address: UnsafeMutableRawPointer) throws -> Set<Substring> {
        let file = try #require(fopen("/proc/self/smaps", "r"))
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 4096)
        var isInside = false
        while fgets(&line, CInt(line.count), file) != nil {
            let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
            let bounds = (text.split(separator: " ").first ?? "").split(separator: "-").map { UInt($0, radix: 16) }
            if bounds.count == 2, let start = bounds[0], let end = bounds[1] {
                isInside = (start..<end).contains(UInt(bitPattern: address))
            }
            if isInside, text.hasPrefix("VmFlags:") { return Set(text.dropLast().split(separator: " ").dropFirst()) }
        }
        return []
    }
}
