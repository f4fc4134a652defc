import CardFS
import PCIBus
import Testing

@Suite struct MountOptionsTests {
    @Test(arguments: [[], [""], [","], ["rw"]]) func `without options the values are those of the manual`(
        lists: [String]
    )
        throws
    {
        let options = try MountOptions(lists)
        #expect(!options.readOnly && !options.allowOther && !options.verify && !options.expert)
        #expect(!options.allowBAR2Writes)
        #expect(options.uid == nil && options.gid == nil && options.mode == nil && options.address == nil)
        #expect(options.directThreshold == 16384 && options.gatherNanoseconds == 10_000_000)
        #expect(options.transmitTimeoutNanoseconds == 10_000_000_000 && options.receiveTimeoutNanoseconds == 0)
        #expect(options.lingerNanoseconds == 2_000_000_000 && options.reloadTimeoutNanoseconds == 60_000_000_000)
        #expect(options.interrupts == nil && options.threads == nil && options.spinNanoseconds == 0)
        #expect(options.receiverByteCount == 64 << 20 && options.simulatedAddressBits == 32)
        #expect(options.simulatedScatterGather && options.simulatedMapRegisters == nil)
        #expect(options.kernelOptions.isEmpty)
    }

    @Test func `several lists add up, and a later option wins`() throws {
        let options = try MountOptions([
            "ro,uid=1000,gid=0x64,mode=640,address=0000:03:00.1", "rw,direct_threshold=32K,gather=500us,,tx_timeout=0",
            "rx_timeout=3,linger=0,allow_bar2_writes,expert,receiver=1M,threads=4,spin=50us,allow_other", "",
        ])
        #expect(!options.readOnly)
        #expect(options.uid == 1000 && options.gid == 100 && options.mode == 0o640)
        #expect(options.address == PCIAddress("03:00.1"))
        #expect(options.directThreshold == 32768)
        #expect(options.gatherNanoseconds == 500_000)
        #expect(options.transmitTimeoutNanoseconds == 0)
        #expect(options.receiveTimeoutNanoseconds == 3_000_000_000)
        #expect(options.lingerNanoseconds == 0)
        #expect(options.allowBAR2Writes && options.expert && options.allowOther)
        #expect(options.receiverByteCount == 1 << 20 && options.threads == 4 && options.spinNanoseconds == 50_000)
    }

    @Test func `words for mount and fstab are taken, and those of the kernel kept`() throws {
        let words =
            "defaults,auto,noauto,user,user=bob,nouser,users,nofail,_netdev,x-systemd.automount,x-gvfs-name=card"
        let options = try MountOptions([
            words + ",relatime,nodiratime,fsname=card,subtype=cardfs,nodev,suid,exec,noatime"
        ])
        #expect(options.kernelOptions == ["nodev", "suid", "exec", "noatime"])
    }

    @Test func `of two opposite kernel options the later one counts`() throws {
        #expect(try MountOptions(["dev,nodev,suid,dev"]).kernelOptions == ["suid", "dev"])
        #expect(try MountOptions(["sync,async"]).kernelOptions == ["async"])
        #expect(try MountOptions(["async,sync"]).kernelOptions == ["sync"])
        #expect(try MountOptions(["nodev,nodev"]).kernelOptions == ["nodev"])
    }

    @Test(arguments: [
        ("dirct_threshold", "unknown option \"dirct_threshold\": did you mean direct_threshold?"),
        ("dirct_threshold=5", "unknown option \"dirct_threshold\": did you mean direct_threshold?"),
        ("allowother", "unknown option \"allowother\": did you mean allow_other?"),
        ("rx_timout=1", "unknown option \"rx_timout\": did you mean rx_timeout or tx_timeout?"),
        ("zzzzzz", "unknown option \"zzzzzz\""), ("=5", "unknown option \"\""),
    ])
    func `an unknown option is refused by name, with those that are close`(item: String, sentence: String) {
        #expect(refusal(item)?.sentence == sentence)
    }

    @Test(arguments: [
        "uid=", "uid", "uid=bob", "uid=-1", "uid=4294967295", "gid=x", "mode=888", "mode=1777", "mode=", "mode=0x1ff",
        "address=sim", "address=0000:02:20.0", "direct_threshold=x", "direct_threshold=2G", "gather=1.5s",
        "gather=10 ms",
        "tx_timeout=ever", "rx_timeout=99999999999s", "receiver=1K", "threads=0", "threads=9", "threads=010", "ro=1",
        "expert=yes", "spin=2s", "spin=x",
        "uid= 5",
    ])
    func `a bad value is refused by the name of its option`(item: String) {
        let name = item.split(separator: "=")[0]
        #expect(refusal(item)?.sentence.contains("option \(name)") == true)
        #expect(refusal(item)?.hint != nil)
    }

    @Test(arguments: [("mode=640", 0o640), ("mode=0640", 0o640), ("mode=0o600", 0o600), ("mode=0", 0)])
    func `permissions are octal however they are written`(item: String, mode: UInt32) throws {
        #expect(try MountOptions([item]).mode == mode)
    }

    @Test func `the help lists each option in lines that fit a terminal`() {
        let lines = MountOptions.help.split(separator: "\n")
        #expect(lines.count >= 18 && Set(lines.map { $0.split(separator: " ")[0] }).count == lines.count)
        #expect(lines.allSatisfy { $0.count <= 78 })
    }

    private func refusal(_ item: String) -> Refusal? {
        do throws(Refusal) {
            _ = try MountOptions([item])
            return nil
        } catch {
            return error
        }
    }
}
