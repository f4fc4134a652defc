import CHardware
import PCIBus

/// A text as it was at one moment. There is one copy of it for all who read it.
final class TextSample: Sendable {
    let bytes: [UInt8]

    init(_ text: String) { bytes = Array(text.utf8) }
}

/// What look-ups found in text files of varying length: the size that stat(2) tells, and the sample that the open which follows
/// serves. Kept until the kernel forgets the node.
final class LookUpSamples: @unchecked Sendable {  // guarded by `lock`
    /// A text, and what was so at that moment.
    struct Sample {
        var text: TextSample
        /// How often the state of the card had changed at that moment.
        var stateChanges: UInt64
    }

    private struct LookUp {
        var size: Int
        var time: timespec
        var sample: Sample?
    }

    /// Texts that are kept at a time. A program may hold any number of files that it has looked up and not opened (O_PATH).
    private static let capacity = 1024

    private let lock = Lock()
    /// The nodes whose texts were kept, the oldest first; some are not kept any more.
    private var kept: [UInt64] = []
    private var lookUps: [UInt64: LookUp] = [:]
    /// The newest text of each file; one that says the same again is the same copy.
    private var newest: [Int: TextSample] = [:]

    deinit { lock.destroy() }

    /// The sample that says `text` of the file `node`.
    func sample(_ text: String, of node: Int) -> TextSample {
        let sample = TextSample(text)
        return lock.locked {
            if let known = newest[node], known.bytes == sample.bytes { return known }
            newest[node] = sample
            return sample
        }
    }

    /// Keeps the sample of the look-up that made the node `id` at `time`.
    func keep(_ sample: Sample, of id: UInt64, _ time: timespec) {
        lock.locked {
            lookUps[id] = LookUp(size: sample.text.bytes.count, time: time, sample: sample)
            kept.append(id)
            guard kept.count >= 2 * Self.capacity else { return }
            kept.removeAll { lookUps[$0]?.sample == nil }
            for old in kept.dropLast(Self.capacity) { lookUps[old]?.sample = nil }
            kept = kept.suffix(Self.capacity)
        }
    }

    /// The sample of a node for the first read through it; nil for later ones, which take samples of their own.
    func take(of id: UInt64) -> Sample? {
        lock.locked {
            let sample = lookUps[id]?.sample
            lookUps[id]?.sample = nil
            return sample
        }
    }

    /// The size of the sample of a node, and when it was taken; nil for a node that has none.
    func attributes(of id: UInt64) -> (size: Int, time: timespec)? {
        lock.locked { lookUps[id].map { ($0.size, $0.time) } }
    }

    /// The kernel does not know the node any more.
    func forget(_ id: UInt64) { lock.locked { lookUps[id] = nil } }
}
