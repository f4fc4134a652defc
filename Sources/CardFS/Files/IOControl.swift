import CFuse
import CHardware
import DriverCore
import PCIBus
import Synchronization

/// The numbers of ioctl(2) on `bar0`. FUSE carries data only for numbers that encode its size and direction (`_IOW`, `_IOR`),
/// so each control code of the driver core has one of those.
enum IOControlNumber {
    /// `_IOC(direction, 'C', number, size)`: direction 1 is data for the card, 2 from it.
    private static func encode(_ direction: UInt32, _ number: UInt32, _ size: UInt32) -> UInt32 {
        direction << 30 | size << 16 | UInt32(UInt8(ascii: "C")) << 8 | number
    }

    /// The control code behind a number; nil for one that is nobody's.
    static func function(_ number: UInt32) -> RegisterControl.Function? {
        switch number {
        case encode(1, 0, 4): .setOffset
        case encode(1, 1, 4): .writeRegister
        case encode(2, 2, 4): .readRegister
        case encode(2, 3, 4): .readAddress
        case encode(2, 4, 8): .readWholeAddress
        default: nil
        }
    }
}

extension CardFileSystem {
    /// Carries out ioctl(2) on an open file and answers. The offset it sets belongs to the open file.
    func control(
        _ request: fuse_req_t,
        _ id: UInt64,
        _ number: UInt64,
        _ command: UInt32,
        _ input: UnsafeRawBufferPointer,
        outputByteCount: Int
    ) {
        let handle = mount.pointee.handles.pointee[number]
        if handle.pointee.kind == .receive, command == RingMessage.command {
            if !mount.pointee.lendsRing {
                fail(request, id, EOPNOTSUPP, "the driver \(device.driverName) lends no ring; read dma/rx instead")
            } else if !mount.pointee.mayMapRing(callingUser(request)) {
                fail(
                    request,
                    id,
                    EACCES,
                    "the ring is lent to those who can map dma/buffer, root and user \(mount.pointee.daemonUser) who serves the"
                        + " mount; read dma/rx instead"
                )
            } else {
                fail(
                    request,
                    id,
                    EINVAL,
                    "the message of the ioctl has \(input.count) bytes, not \(RingMessage.byteCount)"
                )
            }
            return
        }
        // Programs ask every file whether it is a terminal: what is unknown is no failure to be remembered.
        guard handle.pointee.kind == .windowRegister, let function = IOControlNumber.function(command),
            let bar0 = device.function.usableBARs.first(where: { $0.index == 0 })
        else {
            _ = fuse_reply_err(request, ENOTTY)
            return
        }
        if let reason = denial(function, handle.pointee.flags, fuse_req_ctx(request)?.pointee.uid) {
            fail(request, id, EACCES, reason)
            return
        }
        if function == .writeRegister {
            mount.pointee.counters.registerWrites.wrappingAdd(1, ordering: .relaxed)
        } else if function == .readRegister {
            mount.pointee.counters.registerReads.wrappingAdd(1, ordering: .relaxed)
        }
        let window = mount.pointee.windowStart..<mount.pointee.windowStart + mount.pointee.windowByteCount
        let registers = RegisterControl(registers: mount.pointee.registers, window: window, address: bar0.address)
        let outcome = IOControlRequest.Outcome()
        var answer: UInt64 = 0
        var fault = RegisterFault.none
        do throws(StatusError) {
            fault = try withUnsafeMutableBytes(of: &answer) { bytes throws(StatusError) in
                let output = UnsafeMutableRawBufferPointer(rebasing: bytes[..<min(outputByteCount, bytes.count)])
                let control = try IOControlRequest(
                    function.code,
                    input: input,
                    output: output,
                    memory: systemMemory,
                    outcome: outcome
                )
                let lock = mount.pointee.handles.pointee.lock(for: number)
                // A register access blocks nobody: the offset and its use are one step for threads that share the file.
                lock.lock()
                defer { lock.unlock() }
                return registers.perform(control, offset: &handle.pointee.offset)
            }
        } catch {
            fail(request, id, error.status.code, error.sentence)
            return
        }
        let status = outcome.status ?? .internalError
        if fault == .outOfRange, function == .setOffset {
            failHot(.outsideWindow, request, id, number)
        } else if fault != .none {
            failHot(.fault(fault), request, id, number)
        } else if !status.isSuccess {
            let sentence =
                function == .readAddress
                ? "BAR0 lies above 4 GiB: ask for the whole address with CARDFS_BAR0_ADDRESS64"
                : "the buffer is too small for this control code"
            fail(request, id, status.code, sentence)
        } else {
            _ = withUnsafeBytes(of: &answer) { bytes in
                fuse_reply_ioctl(request, 0, bytes.baseAddress, outputByteCount == 0 ? 0 : outcome.information)
            }
        }
    }

    /// What speaks against a control code on a file that was opened with these flags, by this user.
    private func denial(_ function: RegisterControl.Function, _ flags: CInt, _ user: UInt32?) -> String? {
        switch function.code.access {
        case .write where flags & O_ACCMODE == O_RDONLY:
            return "a register is written through a file that is open for writing"
        case .read where flags & O_ACCMODE == O_WRONLY:
            return "a register is read through a file that is open for reading"
        default: break
        }
        // As the file `paddr`: a physical address is not everybody's.
        if function == .readAddress || function == .readWholeAddress, user != 0, user != owner.uid {
            return "the physical address of BAR0 is for the owner of the mount"
        }
        return nil
    }
}
