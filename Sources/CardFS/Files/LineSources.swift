import CHardware
import DriverCore
import PCIBus
import Synchronization

/// `interrupts/log`: lines of `sequence time vector count`, from the open on.
struct InterruptLines: LineSource {
    func lines(_ fileSystem: CardFileSystem, _ handle: UnsafeMutablePointer<Handle>, _ size: Int) -> String? {
        var cursor = handle.pointee.cursor
        var limit = UInt64(min(4096, max(LineReaders.batch, size / 16 + 1)))
        if fileSystem.isDead(handle) {
            // What came before the removal is still to be had, and nothing of the card's next life.
            let end = fileSystem.device.lastRemovalInterrupt.load(ordering: .acquiring)
            limit = min(limit, end > cursor ? end - cursor : 0)
        }
        var entries = [InterruptLog.Entry](repeating: InterruptLog.Entry(), count: Int(limit))
        let result = entries.withUnsafeMutableBufferPointer {
            fileSystem.device.interrupt.pointee.log.read(from: &cursor, into: $0)
        }
        handle.pointee.cursor = cursor
        guard result.count > 0 else { return nil }
        var text = result.lost > 0 ? "lost \(result.lost)\n" : ""
        for (index, entry) in entries.prefix(result.count).enumerated() {
            let fraction = String(entry.time % 1_000_000_000)
            let padding = String(repeating: "0", count: 9 - fraction.utf8.count)
            text += "\(result.first + UInt64(index)) \(entry.time / 1_000_000_000).\(padding)\(fraction)"
            text += " \(entry.vector) \(entry.count)\n"
        }
        return text
    }

    func end(_ fileSystem: CardFileSystem) -> UInt64 { fileSystem.device.interrupt.pointee.log.end }

    func watch(_ fileSystem: CardFileSystem, _ on: Bool) { fileSystem.device.interrupt.pointee.log.watch(on) }

    func isAtEnd(_ fileSystem: CardFileSystem) -> Bool { false }

    var happening: Happening { .interrupt }

    var nothingYet: String { "no interrupt since the last read" }
}

/// `trace`: lines of `time #request step what`, from the oldest that is kept on, until it is switched off.
struct TraceLines: LineSource {
    func lines(_ fileSystem: CardFileSystem, _ handle: UnsafeMutablePointer<Handle>, _ size: Int) -> String? {
        var cursor = handle.pointee.cursor
        let (entries, lost) = fileSystem.device.trace.pointee.read(
            from: &cursor,
            limit: min(1024, max(LineReaders.batch, size / 64 + 1))
        )
        handle.pointee.cursor = cursor
        guard !entries.isEmpty else { return nil }
        let driver = "\(fileSystem.device.driverName) at \(fileSystem.device.function.address)"
        let lines = entries.map { entry in
            var entry = entry
            if entry.step == .called {
                // A request names its thread, and a person looks for its process.
                let thread = Int32(bitPattern: UInt32(truncatingIfNeeded: entry.detail))
                entry.detail = UInt64(UInt32(bitPattern: SystemFile.process(of: thread)))
            }
            return entry.line(driver: driver)
        }
        return (lost > 0 ? "lost \(lost)\n" : "") + lines.joined()
    }

    func end(_ fileSystem: CardFileSystem) -> UInt64 { fileSystem.device.trace.pointee.bounds.upperBound }

    func watch(_ fileSystem: CardFileSystem, _ on: Bool) { fileSystem.device.trace.pointee.watch(on) }

    func isAtEnd(_ fileSystem: CardFileSystem) -> Bool {
        !fileSystem.device.trace.pointee.isOn.load(ordering: .acquiring)
    }

    var happening: Happening { .trace }

    var nothingYet: String { "nothing was traced since the last read" }
}
