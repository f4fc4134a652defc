import ArgumentParser
import CardFS
import PCIBus

/// `cardfs list`.
struct List: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list",
        abstract: "Lists the cards of this machine, and whether cardfs can take them.",
        discussion: """
            Examples:
              cardfs list
              cardfs list --json | jq -r '.[] | select(.available) | .card'
            """
    )

    @Flag(help: "As JSON, for programs.")
    var json = false

    func run() throws {
        let rows = Self.rows(Machine())
        print(json ? Self.json(rows) : Self.table(rows))
    }

    /// One card, with what stands in its way.
    struct Row: Hashable {
        var card: String
        var ids: String?
        var classCode: String?
        var driver: String?
        var group: String?
        /// Why cardfs cannot take it; nil when it can.
        var obstacle: String?
    }

    /// The simulated card, then the machine's.
    static func rows(_ machine: Machine) -> [Row] {
        [Row(card: "sim")]
            + machine.cards.map { card in
                Row(
                    card: card.address.description,
                    ids: card.vendor.flatMap { vendor in
                        card.device.map { hexadecimal(vendor, digits: 4) + ":" + hexadecimal($0, digits: 4) }
                    },
                    classCode: card.classCode.map { hexadecimal($0, digits: 6) },
                    driver: card.driver,
                    group: card.group,
                    obstacle: card.obstacle(on: machine)
                )
            }
    }

    /// Columns for a person; the last line without its newline.
    static func table(_ rows: [Row]) -> String {
        let lines =
            [["CARD", "IDS", "CLASS", "DRIVER", "GROUP", "CARDFS"]]
            + rows.map { row in
                [row.card, row.ids ?? "-", row.classCode ?? "-", row.driver ?? "-", row.group ?? "-"]
                    + [row.obstacle.map { "no: " + $0 } ?? "yes"]
            }
        let widths = (0..<5).map { column in lines.map { $0[column].count }.max() ?? 0 }
        return lines.map { line in
            let cells = (0..<5).map { line[$0] + String(repeating: " ", count: widths[$0] - line[$0].count) }
            return (cells + [line[5]]).joined(separator: "  ")
        }.joined(separator: "\n")
    }

    /// An array of one object for each card.
    static func json(_ rows: [Row]) -> String {
        JSON.array(
            rows.map { row in
                .object([
                    .init("card", .string(row.card)), .init("ids", .text(row.ids)),
                    .init("class", .text(row.classCode)),
                    .init("driver", .text(row.driver)), .init("iommu_group", .text(row.group)),
                    .init("available", .boolean(row.obstacle == nil)), .init("obstacle", .text(row.obstacle)),
                ])
            }
        ).description
    }
}
