extension Device {
    /// How the device tells the file layer what happened. Set once, before the device starts. Called from any thread of the
    /// device, no lock held.
    public struct FileLayerHooks: Sendable {
        /// A failure that belongs into the list of recent failures: errno, path within the mount, sentence.
        public var failed: @Sendable (CInt, String, String) -> Void = { _, _, _ in }
        /// The readiness of a stream may have changed (0 to the card, 1 from it).
        public var readinessChanged: @Sendable (UInt32) -> Void = { _ in }
        /// An interrupt was logged while somebody watched.
        public var interrupted: @Sendable () -> Void = {}
        /// A step of a request was traced while somebody watched.
        public var traced: @Sendable () -> Void = {}
        /// ``Device/stateText`` has changed.
        public var stateChanged: @Sendable () -> Void = {}

        /// Hooks that do nothing.
        public init() {}
    }

    /// The sizes of the fixed memory of a device.
    public struct Capacity: Sendable {
        /// Requests at one time.
        public var requests = 1536
        /// FUSE requests with payload at one time.
        public var receiveBuffers = 48
        /// Buffered requests at one time.
        public var systemBuffers = 512

        /// The defaults.
        public init() {}
    }
}
