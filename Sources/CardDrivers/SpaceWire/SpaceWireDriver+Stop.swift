import CHardware
public import DriverCore
import Glibc
import PCIBus

// The question whether the card can stop, and the wait for what it has begun.
extension SpaceWireDriver {
    /// Waits until the card has taken what was accepted, and before a sleep until the packet that comes in has ended: as long as
    /// something moves every half a second.
    public func queryStop(_ cancellation: Cancellation) throws(StatusError) {
        var patience = Patience()
        while true {
            // Closed at each look again: a recovery that was under way lets writes in when it is done.
            let left = transmit.control { channel in
                channel.close()
                return (requests: channel.unsentRequests, moved: channel.bytesMoved)
            }
            if left.requests == 0, !isInPacket(SpaceWireLayout.Packets.sending) { break }
            guard try patience.hasMore(left.moved, cancellation), !device.isWantedBack else {
                throw StatusError(
                    .invalidDeviceState,
                    "\(device.function.address) still has \(left.requests) writes to take: read dma/rx, or write flush to ctl first"
                )
            }
        }
        if device.departure == .suspend { try awaitPacketEnd(cancellation) }
    }

    /// Lets packets and writes in again.
    public func cancelStop() {
        window.store32(slaveBits(engine), SpaceWireLayout.slave)
        transmit.control { $0.resume() }
    }

    /// What the register of the slave controller says for an engine, with packets let in.
    func slaveBits(_ engine: DMAEngine) -> UInt32 { engine == .system ? SpaceWireLayout.Slave.bothEngines : 0 }

    private func isInPacket(_ bit: UInt32) -> Bool {
        guard isFullCard else {
            // A bare core shows whether there is anything behind the last end of a packet.
            let status = window.load32(SpaceWireLayout.status)
            return bit == SpaceWireLayout.Packets.receiving && status & SpaceWireLayout.Status.receiverEmpty == 0
        }
        let packets = window.load32(SpaceWireLayout.packets)
        return packets != .max && packets & bit != 0
    }

    /// Lets the receiver end the packet it is in, and begin no other: what is with the far end waits there, and what has come is
    /// whole. A packet that a command has cut is not waited for. A bare core cannot be told; a packet it is in is cut, and ends in
    /// error.
    private func awaitPacketEnd(_ cancellation: Cancellation) throws(StatusError) {
        window.store32(slaveBits(engine) | SpaceWireLayout.Slave.beginsNoPacket, SpaceWireLayout.slave)
        var patience = Patience(inAll: 10_000_000_000)
        while true {
            let state = receive.control { channel in
                channel.reap()
                channel.settle()
                return (isCut: channel.isArrivalCut, isUntold: channel.isUntold, moved: channel.bytesMoved)
            }
            if state.isCut || !state.isUntold && !isInPacket(SpaceWireLayout.Packets.receiving) { return }
            guard try patience.hasMore(state.moved, cancellation), !device.isWantedBack else {
                guard isFullCard else { return }
                throw StatusError(
                    .invalidDeviceState,
                    "\(device.function.address) is in the middle of a packet that does not end: read what has come, or discard it first"
                )
            }
        }
    }

    /// How long a wait for the card goes on: half a second without a movement, and a time in all where there is a limit;
    /// nanoseconds.
    private struct Patience {
        private static let withoutMovement: UInt64 = 500_000_000
        private let inAll: UInt64
        private let start = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        private var lastMovement = chw_clock_nanoseconds(CLOCK_MONOTONIC)
        private var moved: UInt64?

        init(inAll: UInt64 = .max) { self.inAll = inAll }

        /// Waits a moment. False when it has been long enough; throws ``Status/cancelled``.
        mutating func hasMore(_ moved: UInt64, _ cancellation: Cancellation) throws(StatusError) -> Bool {
            if cancellation.isCancelled { throw StatusError(.cancelled, "interrupted; the card works on") }
            let now = chw_clock_nanoseconds(CLOCK_MONOTONIC)
            if moved != self.moved { lastMovement = now }
            self.moved = moved
            guard now - lastMovement < Self.withoutMovement, now - start < inAll else { return false }
            usleep(500)
            return true
        }
    }
}
