public import CHardware

/// How a channel of a slave DMA controller works.
public struct SlaveDMAMode: Hashable, Sendable {
    /// Whether bytes go from memory to the device.
    public var isToDevice: Bool
    /// Whether address and counter are loaded anew when the counter has run out, so that the channel goes round a buffer
    /// until it is masked; else it masks itself then.
    public var isAutoInitialized: Bool

    /// Describes a mode.
    public init(isToDevice: Bool, isAutoInitialized: Bool) {
        self.isToDevice = isToDevice
        self.isAutoInitialized = isAutoInitialized
    }
}

/// A channel of the machine's slave DMA controller, wired to one request line of a function.
///
/// A slave controller moves bytes between memory and a device that cannot do so itself: the device asks for them by its
/// request line, the controller counts. A trivial value, valid as long as the function is open. The unchecked conformance is
/// sound because the context is the machine's own state, which it keeps thread-safe.
public struct SlaveDMAChannel: @unchecked Sendable {
    private let context: UnsafeMutableRawPointer
    private let ask: chw_question
    private let order: chw_dma_order

    /// Wraps the functions of a machine: `counter` answers the bytes left; `order` loads and unmasks, or masks where its byte
    /// count is 0.
    public init(context: UnsafeMutableRawPointer, counter: @escaping chw_question, order: @escaping chw_dma_order) {
        self.context = context
        ask = counter
        self.order = order
    }

    /// Loads address, counter and mode, and lets the channel serve its device. `byteCount` is 1…16 MiB.
    public func program(_ address: LogicalAddress, byteCount: Int, _ mode: SlaveDMAMode) {
        order(
            context,
            address.value,
            UInt32(byteCount),
            (mode.isToDevice ? 1 : 0) | (mode.isAutoInitialized ? 2 : 0)
        )
    }

    /// Stops serving the device. When it returns, no byte is being moved.
    public func mask() { order(context, 0, 0, 0) }

    /// Bytes left until the counter runs out. Any level; does not block.
    @_noLocks public func counter() -> Int { Int(chw_ask(ask, context)) }
}
