import DriverCore
import PCIBus

/// A file or directory of the tree that is there from the mount on.
struct Node {
    var name: String
    var parent: Int
    var kind: FileKind
    /// Permission bits.
    var mode: UInt32
    /// st_size.
    var size: UInt64 = 0
    /// The BAR of a resource or register.
    var bar = 0
    /// The offset of a named register in its BAR.
    var offset: UInt64 = 0
    var width = AccessWidth.long
    /// Where a link leads.
    var target = ""
    /// What a text file says; where a link leads that is not always the same.
    var read: (@Sendable () throws(FileError) -> String)?
    /// What a line written to a text file does. It must not block.
    var write: (@Sendable (String) throws(FileError) -> Void)?
    /// As `write`, for what takes time: runs on the card's worker, and the writer is answered when it is done. A signal for
    /// the writer cancels it.
    var command: (@Sendable (String, Cancellation) throws(FileError) -> Void)?

    /// The st_size of a file that is read as it comes. Asynchronous direct reads end at it, so that it is not 0; programs that
    /// copy as much as that, or pad up to it, do little harm.
    static let streamSize: UInt64 = 4096
    /// The st_size of a file that is only written: no write passes it, and appending still stays below the kernel's limit.
    static let endlessSize: UInt64 = 1 << 62

    /// Whether it is a file, not a directory or a link.
    var isRegular: Bool {
        switch kind {
        case .directory, .link: false
        default: true
        }
    }

    /// Whether each look-up makes a node of its own towards the kernel, with the same st_ino. The kernel serialises the writes
    /// to one node, and a process that waits for that lock does not even die: so no two opens share the node of a file whose
    /// write may wait. Text whose length varies has a size that is true for one sample only.
    var isOfEachLookUp: Bool {
        switch kind {
        case .transmit, .receive: true
        case .text, .state: command != nil || size == 0
        default: false
        }
    }
}

/// The nodes of a mount by number and by name.
struct Tree {
    /// Number 0 is nobody, 1 the root.
    private(set) var nodes: [Node]
    private var children: [Int: [(name: String, node: Int)]] = [:]
    private var byName: [Int: [String: Int]] = [:]

    init(rootMode: UInt32) {
        let root = Node(name: "", parent: 1, kind: .directory, mode: rootMode)
        nodes = [root, root]
    }

    /// Adds a node and answers its number.
    @discardableResult
    mutating func add(_ node: Node) -> Int {
        nodes.append(node)
        let number = nodes.count - 1
        precondition(number < 1 << 16)
        children[node.parent, default: []].append((node.name, number))
        byName[node.parent, default: [:]][node.name] = number
        return number
    }

    /// Adds a directory.
    mutating func addDirectory(_ name: String, in parent: Int = 1) -> Int {
        add(Node(name: name, parent: parent, kind: .directory, mode: 0o755))
    }

    /// The child of a directory with a name.
    func child(_ name: String, of parent: Int) -> Int? { byName[parent]?[name] }

    /// The children of a directory, in the order they were added.
    func children(of parent: Int) -> [(name: String, node: Int)] { children[parent] ?? [] }

    /// The path of a node below the mount point.
    func path(_ node: Int) -> String {
        var names: [String] = []
        var at = node
        while at > 1 {
            names.append(nodes[at].name)
            at = nodes[at].parent
        }
        return names.reversed().joined(separator: "/")
    }
}
