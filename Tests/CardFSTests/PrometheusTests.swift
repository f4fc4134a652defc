import CardFS
import Testing

/// Reads the text format as node_exporter's textfile collector does, and says what it would refuse.
private struct Exposition {
    var families: [String: (kind: String, help: String)] = [:]
    var samples: [String: Double] = [:]
    var fault: String?

    init(_ text: String) {
        guard text.isEmpty || text.hasSuffix("\n") else {
            fault = "does not end in a newline"
            return
        }
        var current = ""
        var closed: Set<String> = []
        for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() where fault == nil {
            let words = line.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
            if line.hasPrefix("# HELP ") {
                if families[words[2]] != nil { fault = "second HELP of \(words[2])" }
                closed.insert(current)
                current = words[2]
                families[current] = ("", words.count > 3 ? words[3] : "")
            } else if line.hasPrefix("# TYPE ") {
                if words[2] != current || !["counter", "gauge"].contains(words[3]) { fault = "bad TYPE \(line)" }
                families[words[2]]?.kind = words[3]
            } else {
                sample(String(line), in: current)
            }
        }
    }

    private mutating func sample(_ line: String, in family: String) {
        guard let space = line.lastIndex(of: " ") else {
            fault = "no value in \(line)"
            return
        }
        let key = String(line[..<space])
        let value = line[line.index(after: space)...]
        let name = key.prefix { $0 != "{" }
        let isName = name.utf8.allSatisfy {
            (0x30...0x39).contains($0) || (0x41...0x5a).contains($0) || (0x61...0x7a).contains($0) || $0 == 0x5f
                || $0 == 0x3a
        }
        guard name == family, isName, families[family]?.kind != "" else {
            fault = "sample \(key) outside its family"
            return
        }
        guard let number = Double(value == "+Inf" ? "inf" : value == "-Inf" ? "-inf" : String(value)) else {
            fault = "no number: \(value)"
            return
        }
        if samples[key] != nil { fault = "duplicate \(key)" }
        if !labelsAreWellFormed(key.dropFirst(name.count)) { fault = "labels of \(key)" }
        samples[key] = number
    }

    private func labelsAreWellFormed(_ text: Substring) -> Bool {
        guard !text.isEmpty else { return true }
        guard text.hasPrefix("{"), text.hasSuffix("}") else { return false }
        var rest = Array(text.dropFirst().dropLast().utf8)
        while !rest.isEmpty {
            guard let equal = rest.firstIndex(of: 0x3d), equal > 0, equal + 1 < rest.count, rest[equal + 1] == 0x22
            else {
                return false
            }
            var index = equal + 2
            while index < rest.count, rest[index] != 0x22 {
                if rest[index] == 0x5c {
                    guard index + 1 < rest.count, [0x5c, 0x22, 0x6e].contains(rest[index + 1]) else { return false }
                    index += 1
                }
                index += 1
            }
            guard index < rest.count else { return false }
            rest = Array(rest[(index + 1)...])
            if rest.first == 0x2c { rest.removeFirst() } else if !rest.isEmpty { return false }
        }
        return true
    }
}

@Suite struct PrometheusTests {
    @Test func `a family is its help, its type and its samples`() {
        let text = PrometheusText.write([
            Metric("cardfs_interrupts_total", .counter, help: "Interrupts since the mount.", 42),
            Metric(
                "cardfs_bytes_total",
                .counter,
                help: "Bytes moved.",
                samples: [
                    .init(.integer(.max), labels: [.init("direction", "tx"), .init("engine", "sg")]),
                    .init(.integer(0), labels: [.init("direction", "rx"), .init("engine", "sg")]),
                ]
            ),
        ])
        let expected = """
            # HELP cardfs_interrupts_total Interrupts since the mount.
            # TYPE cardfs_interrupts_total counter
            cardfs_interrupts_total 42
            # HELP cardfs_bytes_total Bytes moved.
            # TYPE cardfs_bytes_total counter
            cardfs_bytes_total{direction="tx",engine="sg"} 18446744073709551615
            cardfs_bytes_total{direction="rx",engine="sg"} 0

            """
        #expect(text == expected)
        #expect(Exposition(text).fault == nil)
    }

    @Test func `whatever the names and texts are, a collector accepts the file`() {
        let odd = "a \"quoted\" \\ back\nslash, {brace}=\"x\""
        let text = PrometheusText.write([
            Metric("1 bad-name", .gauge, help: odd, samples: [.init(.real(0.5), labels: [.init("2 bad:label", odd)])]),
            Metric("", .gauge, help: "", samples: []),
            Metric(
                "a",
                .gauge,
                help: "first",
                samples: [.init(.real(.infinity)), .init(.real(-.infinity), labels: [.init("x", "")])]
            ),
            Metric(
                "b",
                .gauge,
                help: "",
                samples: [.init(.real(.nan)), .init(.real(1e300), labels: [.init("x", "1")])]
            ),
            Metric(
                "a",
                .gauge,
                help: "again",
                samples: [.init(.integer(7)), .init(.integer(8), labels: [.init("y", "ü")])]
            ),
        ])
        let read = Exposition(text)
        #expect(read.fault == nil, "\(text)")
        #expect(read.families.count == 4)
        #expect(read.samples["a"] == 7)
        #expect(read.samples["a{y=\"ü\"}"] == 8)
    }

    @Test func `nothing to tell is an empty file`() {
        #expect(PrometheusText.write([]).isEmpty)
    }
}
