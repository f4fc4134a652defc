import PCIBus

/// What look-ups found in text files of varying length: the size that stat(2) tells, and the sample that the open which follows
/// serves. Kept until the kernel forgets the node.
final class LookUpSamples: @unchecked Sendable {  // guarded by `lock`
    /// A text as it was at one moment.
    struct Sample {
        var text: String
        /// How often the state of the card had changed at that moment.
        var stateChanges: UInt64
    }

    private let lock = Lock()
    private var samples: [UInt64: (size: Int, sample: Sample?)] = [:]

    deinit { lock.destroy() }

    /// Keeps the sample of the look-up that made the node `id`.
    func keep(_ sample: Sample, of id: UInt64) { lock.locked { samples[id] = (sample.text.utf8.count, sample) } }

    /// The sample of a node for the first read through it; nil for later ones, which take samples of their own.
    func take(of id: UInt64) -> Sample? {
        lock.locked {
            let sample = samples[id]?.sample
            samples[id]?.sample = nil
            return sample
        }
    }

    /// The size of the sample of a node; nil for a node that has none.
    func size(of id: UInt64) -> Int? { lock.locked { samples[id]?.size } }

    /// The kernel does not know the node any more.
    func forget(_ id: UInt64) { lock.locked { samples[id] = nil } }
}
