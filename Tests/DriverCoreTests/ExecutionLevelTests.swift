import CHardware
import PCIBus
import Testing

@testable import DriverCore

@Suite struct ExecutionLevelTests {
    @Test func `a level belongs to a thread, and ends with its closure`() {
        #expect(ExecutionLevel.current == .passive)
        ExecutionLevel.dispatch.run {
            #expect(ExecutionLevel.current == .dispatch)
            let other = Thread(name: "other") { #expect(ExecutionLevel.current == .passive) }
            other.join()
            ExecutionLevel.device.run { #expect(ExecutionLevel.current == .device) }
            #expect(ExecutionLevel.current == .dispatch)
        }
        #expect(ExecutionLevel.current == .passive)
    }

    @Test func `a closure that throws gives the level back`() {
        #expect(
            status { () throws(StatusError) in
                try ExecutionLevel.dispatch.run { () throws(StatusError) in
                    throw StatusError(.unsuccessful, "")
                }
            } == .unsuccessful
        )
        #expect(ExecutionLevel.current == .passive)
    }
}
