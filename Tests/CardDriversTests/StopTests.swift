import DriverCore
import PCIBus
import Testing

/// A stop or a sleep waits for what the card has still to do, and who asked for it may change his mind.
@Suite struct StopTests {
    enum Command: CaseIterable { case stop, suspend }

    private func run(_ command: Command, _ device: Device, _ cancellation: Cancellation) -> Status {
        do throws(StatusError) {
            switch command {
            case .stop: try device.stop(cancellation)
            case .suspend: try device.suspend(cancellation)
            }
            return .success
        } catch { return error.status }
    }

    @Test(arguments: FullRingTests.engines, Command.allCases)
    func `a signal ends the wait for a card that takes nothing, and the card works on`(
        engine: DMAEngine,
        command: Command
    ) throws {
        let station = try Station()
        try station.dma.select(engine)
        try station.set("fault", "hang-tx")
        #expect(try station.wait(station.write(pattern(5000))).status == .success)
        let cancellation = Cancellation()
        cancellation.cancel()
        #expect(run(command, station.device, cancellation) == .cancelled)
        #expect(station.device.state == (.started, .d0))
        #expect(try station.wait(station.write(pattern(100), nil, .nonblocking)).status == .success)
        try station.set("fault", "none")
        #expect(try station.collect(5100, by: 8192) == pattern(5000) + pattern(100))
        station.expectBalance()
    }

    @Test(arguments: Command.allCases)
    func `a signal ends the wait for a transfer of the edu, which goes on`(command: Command) throws {
        let edu = try EduStation()
        let write = edu.station.write(pattern(10))
        #expect(eventually { edu.model.isMoving })
        let cancellation = Cancellation()
        cancellation.cancel()
        #expect(run(command, edu.station.device, cancellation) == .cancelled)
        #expect(edu.station.device.state == (.started, .d0))
        #expect(try edu.wait(write).information == 10)
        #expect(try edu.wait(edu.station.read(10)).bytes == pattern(10))
    }
}
