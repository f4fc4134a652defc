import CardFS
import Glibc
import PCIBus
import TestSupport
import Testing

@testable import cardfs

@Suite struct BindingTests {
    private let fake = FakeMachine()
    private let card = PCIAddress(bus: 3, device: 0, function: 0)
    private let name = "0000:03:00.0"

    private var binding: Binding { Binding(fake.machine) }

    private func bind(force: Bool = false) -> Refusal? {
        refusal { () throws(Refusal) in _ = try binding.bind(card, force: force) }
    }

    private func unbind(force: Bool = false) -> Refusal? {
        refusal { () throws(Refusal) in _ = try binding.unbind(card, force: force) }
    }

    @Test func `a card goes to vfio-pci and comes back to the driver it had`() throws {
        fake.addCard(name, driver: "nvme")
        #expect(try binding.bind(card, force: false) == ["\(name) belongs to vfio-pci now; nvme had it"])
        #expect(fake.driver(of: name) == "vfio-pci")
        #expect(fake.writes == ["driver_override vfio-pci", "unbind \(name)", "drivers_probe \(name)"])
        #expect(try binding.bind(card, force: false) == ["\(name) belongs to vfio-pci already"])
        #expect(fake.writes.count == 3)

        #expect(try binding.unbind(card, force: false) == ["\(name) belongs to nvme now"])
        #expect(fake.driver(of: name) == "nvme")
        #expect(fake.machine.word("\(Machine.devices)/\(name)/driver_override") == "(null)")
        #expect(try binding.unbind(card, force: false) == ["\(name) belongs to nvme, not to vfio-pci"])
    }

    @Test func `a card without a driver comes back to none`() throws {
        fake.addCard(name, driver: nil)
        #expect(try binding.bind(card, force: false) == ["\(name) belongs to vfio-pci now; no driver had it"])
        let said = try binding.unbind(card, force: false)
        #expect(said == ["\(name) belongs to no driver now: the kernel has none for it"])
        #expect(fake.driver(of: name) == nil)
    }

    @Test func `what the kernel refuses leaves the card with its driver`() {
        fake.addCard(name, driver: "nvme")
        fake.refusedWrites["unbind"] = EBUSY
        #expect(bind()?.sentence.contains("Device or resource busy") ?? false)
        #expect(fake.driver(of: name) == "nvme")
        #expect(fake.machine.word("\(Machine.devices)/\(name)/driver_override") == "(null)")
        fake.refusedWrites = ["driver_override": EACCES]
        #expect(bind()?.hint?.contains("sudo") ?? false)
        fake.refusedWrites = ["drivers_probe": EINVAL]
        #expect(bind()?.hint?.contains("dmesg") ?? false)
    }

    @Test func `the other members of its group are told of, and not touched`() throws {
        fake.addCard(name, driver: "nvme")
        fake.addCard("0000:03:00.1", driver: "snd_hda_intel")
        fake.addCard("0000:00:01.0", classCode: "0x060400", driver: "pcieport")
        fake.addCard("0000:04:00.0", driver: "e1000e", group: "8")
        let said = try binding.bind(card, force: false)
        #expect(said.count == 2 && said[1].contains("snd_hda_intel has 0000:03:00.1"))
        #expect(said[1].hasSuffix("cardfs bind 0000:03:00.1"))
        #expect(fake.driver(of: "0000:03:00.1") == "snd_hda_intel")
    }

    @Test func `vfio-pci is loaded where it is missing`() throws {
        fake.addCard(name, driver: nil)
        rmdir(fake.root + "/sys/bus/pci/drivers/vfio-pci")
        fake.loadable = false
        #expect(bind()?.hint == "modprobe vfio-pci says why")
        #expect(fake.writes.isEmpty)
        fake.loadable = true
        #expect(bind() == nil && fake.modules == ["vfio-pci"])
    }

    @Test func `no card, a bridge and a card without IOMMU are refused before anything is written`() {
        #expect(bind()?.sentence == "there is no PCI function at \(name)")
        fake.addCard(name, classCode: "0x060400", driver: "pcieport")
        #expect(bind()?.sentence.contains("is a bridge") ?? false)
        fake.addCard("0000:04:00.0", driver: nil, group: nil)
        let error = refusal { () throws(Refusal) in
            _ = try binding.bind(PCIAddress(bus: 4, device: 0, function: 0), force: true)
        }
        #expect(error?.hint?.contains("cardfs doctor 0000:04:00.0") ?? false)
        #expect(fake.writes.isEmpty)
    }

    private func addDisk(_ path: String = "nvme0n1", hasPartition: Bool = true) {
        fake.addCard(name, classCode: "0x010802", driver: "nvme")
        let disk = "\(Machine.devices)/\(name)/nvme/nvme0/\(path)"
        fake.directory(disk)
        fake.link(disk + "/subsystem", "../../../../../class/block")
        if hasPartition {
            fake.directory(disk + "/nvme0n1p1")
            fake.link(disk + "/nvme0n1p1/subsystem", "../../../../../../class/block")
        }
        fake.file("/sys/class/block/nvme0n1/dev", "259:0\n")
        fake.file("/sys/class/block/nvme0n1/nvme0n1p1/dev", "259:1\n")
        fake.file("/sys/class/block/nvme0n1p1/dev", "259:1\n")
    }

    @Test(arguments: ["nvme0n1", "block/nvme0n1", "nvme0c0n1"])
    func `a disk that is mounted is refused, also by its partition, unless by force`(path: String) {
        // The directory that disks of SATA and SCSI have in between, and a disk with several controllers.
        addDisk(path, hasPartition: !path.contains("c0"))
        fake.file("/proc/self/mountinfo", "21 1 259:1 / /home rw - ext4 /dev/nvme0n1p1 rw\n")
        let sentence = bind()?.sentence ?? ""
        #expect(sentence == "\(name) is in use: it holds /dev/nvme0n1p1, which is mounted on /home")
        #expect(fake.writes.isEmpty && fake.driver(of: name) == "nvme")
        #expect(bind(force: true) == nil)
        #expect(fake.driver(of: name) == "vfio-pci")
    }

    @Test func `a disk that is swapped to, or part of another device, is refused`() {
        addDisk()
        fake.file("/proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1p1 partition 1 0 -2\n")
        fake.directory("/sys/class/block/nvme0n1/holders/dm-0")
        let sentence = bind()?.sentence ?? ""
        #expect(sentence.contains("swaps to") && sentence.contains("part of /dev/dm-0"))
    }

    @Test func `a disk nobody uses is not refused`() {
        addDisk()
        fake.file("/proc/self/mountinfo", "21 1 259:7 / /home rw - ext4 /dev/nvme1n1p1 rw\n")
        #expect(bind() == nil)
    }

    @Test(arguments: [true, false])
    func `the card with the default route is refused, another network card is not`(isDefault: Bool) {
        fake.addCard(name, classCode: "0x020000", driver: "e1000e")
        fake.directory("\(Machine.devices)/\(name)/net/enp3s0")
        fake.link("\(Machine.devices)/\(name)/net/enp3s0/subsystem", "../../../../class/net")
        let route =
            isDefault
            ? "enp3s0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0"
            : "enp3s0\t0000A8C0\t0\t1\t0\t0\t0\t00FFFFFF\t0\t0\t0"
        fake.file(
            "/proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\(route)\n"
        )
        #expect(bind()?.sentence.contains("default route") ?? false == isDefault)
    }

    @Test func `a mounted card is not given back, unless by force`() {
        fake.addCard(name, driver: "vfio-pci")
        fake.natural[name] = "nvme"
        fake.file("/proc/self/mountinfo", "40 21 0:51 / /mnt/card rw - fuse.cardfs \(name) rw\n")
        #expect(unbind()?.hint == "cardfs unmount /mnt/card")
        fake.file("/proc/self/mountinfo", "")
        fake.refusedOpens["/dev/vfio/7"] = EBUSY
        #expect(unbind()?.hint?.contains("fuser -v /dev/vfio/7") ?? false)
        #expect(fake.writes.isEmpty)
        #expect(unbind(force: true) == nil && fake.driver(of: name) == "nvme")
    }

    @Test func `a card whose IDs vfio-pci takes by itself does not come back, and that is told`() {
        fake.addCard(name, driver: "vfio-pci")
        fake.natural[name] = "vfio-pci"
        #expect(unbind()?.hint?.contains("ids=") ?? false)
    }
}

/// `Examples/take-card.sh` where there is nothing to take; on a card it runs in the guests of `Tests/rig.sh`.
@Suite(.enabled(if: cardfsExecutable != nil)) struct TakeCardTests {
    private static let script =
        #filePath.split(separator: "/", omittingEmptySubsequences: false).dropLast(3).joined(separator: "/")
        + "/Examples/take-card.sh"

    @Test(arguments: [
        ("", "usage: take-card.sh"), ("ffff:fe:1f.7", "no PCI function at ffff:fe:1f.7"), ("sim", "no driver"),
    ])
    func `it says what is wrong, changes nothing and leaves nothing behind`(argument: String, words: String) async {
        let result = await shell(
            "T=$(mktemp -d); TMPDIR=$T \"$SCRIPT\" \(argument); S=$?; rmdir $T && exit $S",
            environment: ["CARDFS": cardfsExecutable ?? "", "SCRIPT": Self.script]
        )
        #expect(result.status != 0 && result.errors.contains(words), "\(result.text)\(result.errors)")
    }
}

@Suite struct DiagnosisTests {
    private let fake = FakeMachine()
    private let name = "0000:03:00.0"

    private func findings(_ card: String? = nil) throws -> [Diagnosis.Finding] {
        let name = try card.map { text throws(Refusal) in try CardName(text) }
        return try Diagnosis(fake.machine).findings(name)
    }

    private func missing(_ card: String? = nil) throws -> [Diagnosis.Finding] {
        try findings(card).filter { $0.verdict == .missing }
    }

    @Test func `a machine that has all is well`() throws {
        fake.addCard(name, driver: "vfio-pci")
        #expect(try missing(name).isEmpty)
        #expect(try findings(name).allSatisfy { $0.verdict == .ok && $0.remedy == nil })
        #expect(try missing().isEmpty && missing("sim").isEmpty)
    }

    struct Case: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var subject: String
        var remedy: String
        var prepare: @Sendable (FakeMachine) -> Void

        init(_ name: String, _ subject: String, _ remedy: String, _ prepare: @escaping @Sendable (FakeMachine) -> Void)
        {
            testDescription = name
            self.subject = subject
            self.remedy = remedy
            self.prepare = prepare
        }
    }

    static let cases = [
        Case("no /dev/fuse", "FUSE", "modprobe fuse") { unlink($0.root + "/dev/fuse") },
        Case("/dev/fuse is closed to the user", "FUSE", "chmod 0666 /dev/fuse") {
            $0.refusedOpens["/dev/fuse"] = EACCES
        },
        Case("no fusermount3", "FUSE mount", "apt-get install fuse3") {
            $0.userID = 1000
            unlink($0.root + "/usr/bin/fusermount3")
        },
        Case("requests time out", "FUSE timeout", "sysctl fs.fuse.default_request_timeout=0") {
            $0.file("/proc/sys/fs/fuse/default_request_timeout", "20\n")
        },
        Case("no IOMMU", "IOMMU", "intel_iommu=on") { rmdir($0.root + "/sys/kernel/iommu_groups/7") },
        Case("no IOMMU of AMD", "IOMMU", "AMD-Vi") {
            rmdir($0.root + "/sys/kernel/iommu_groups/7")
            $0.file("/proc/cpuinfo", "vendor_id : AuthenticAMD\n")
        },
        Case("VFIO without an IOMMU", "IOMMU", "intel_iommu=on") {
            $0.file("/sys/kernel/iommu_groups/7/name", "vfio-noiommu\n")
            $0.file("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n")
        },
        Case("no vfio-pci", "vfio-pci", "modprobe vfio-pci") { rmdir($0.root + "/sys/bus/pci/drivers/vfio-pci") },
        Case("/dev/vfio/vfio is closed", "VFIO", "chmod 0666 /dev/vfio/vfio") {
            $0.refusedOpens["/dev/vfio/vfio"] = EACCES
        },
        Case("the card has its own driver", "driver", "cardfs bind 0000:03:00.0") {
            $0.addCard("0000:03:00.0", driver: "nvme")
            $0.link("\(Machine.devices)/0000:03:00.0/driver", "../nvme")
        },
        Case("the card is in no group", "isolation", "intel_iommu=on") {
            $0.link("\(Machine.devices)/0000:03:00.0/iommu_group", nil)
        },
        Case("another card of the group has a driver", "group", "cardfs bind 0000:03:00.1") {
            $0.addCard("0000:03:00.1", driver: "snd_hda_intel")
        },
        Case("the group is closed to the user", "group", "chown ann /dev/vfio/7") {
            $0.userID = 1000
            $0.refusedOpens["/dev/vfio/7"] = EACCES
        },
        Case("another process has the group", "group", "fuser -v /dev/vfio/7") {
            $0.refusedOpens["/dev/vfio/7"] = EBUSY
        },
        Case("too little memory may be locked", "locked memory", "LimitMEMLOCK=\(Diagnosis.lockedBytes)") {
            $0.limit = 8 << 20
        },
    ]

    @Test(arguments: cases) func `each thing that is missing is told with the line that mends it`(_ thing: Case) throws
    {
        fake.addCard(name, driver: "vfio-pci")
        thing.prepare(fake)
        let found = try missing(name)
        #expect(
            found.contains { $0.subject == thing.subject && $0.remedy?.contains(thing.remedy) ?? false },
            "\(found)"
        )
    }

    @Test func `a card that is mounted is well although its group is open`() throws {
        fake.addCard(name, driver: "vfio-pci")
        fake.refusedOpens["/dev/vfio/7"] = EBUSY
        fake.file("/proc/self/mountinfo", "40 21 0:51 / /mnt/card rw - fuse.cardfs \(name) rw\n")
        #expect(try missing(name).isEmpty)
    }

    @Test func `lockdown is told of, and keeps nothing from working`() throws {
        fake.addCard(name, driver: "vfio-pci")
        fake.file("/sys/kernel/security/lockdown", "none [integrity] confidentiality\n")
        #expect(try missing(name).isEmpty)
        #expect(try findings(name).contains { $0.verdict == .note && $0.sentence.contains("integrity") })
        fake.file("/sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
        #expect(try !findings(name).contains { $0.verdict == .note })
    }

    @Test func `the number of bytes covers what a mount locks, and not much more`() {
        #expect((64 << 20...96 << 20).contains(Diagnosis.lockedBytes))
    }

    @Test func `the columns line up, and what mends stands below`() {
        let text = Doctor.text([
            Diagnosis.Finding(verdict: .ok, subject: "FUSE", sentence: "fine"),
            Diagnosis.Finding(verdict: .missing, subject: "IOMMU", sentence: "off", remedy: "on"),
        ])
        #expect(text == "ok       FUSE   fine\nmissing  IOMMU  off\n                mend: on")
    }

    @Test func `a card that is not there is refused`() {
        #expect(throws: Refusal.self) { try findings("0000:09:00.0") }
    }
}
