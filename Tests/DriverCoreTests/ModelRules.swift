// Each rule and each defect, with the name of the test that shows it.
extension ModelTests {
    /// What is asked of each routine.
    static let rules = [
        Rule(
            "DriverEntry",
            "a driver that cannot be made leaves nothing",
            "a driver that cannot be made gives the function back"
        ),
        Rule("PAGED_CODE", "callbacks run at passive level", "the driver's callbacks run at passive level"),
        Rule("EvtDriverDeviceAdd", "the driver that matches", "the first driver that matches the IDs takes the card"),
        Rule(
            "WdfDeviceConfigureRequestDispatching",
            "each kind has its queue",
            "a manual queue delivers when it is asked"
        ),
        Rule("WdfIoQueueDispatchSequential", "one at a time", "a sequential queue delivers one at a time, in order"),
        Rule("resource lists", "raw and translated name the same", "resources name each BAR, whatever lies between"),
        Rule("CM_RESOURCE_PORT_IO", "ports are no memory", "a BAR of ports is no memory"),
        Rule(
            "resource assignment",
            "a rebalance gives other resources",
            "a rebalance starts the card at its new place"
        ),
        Rule(
            "EvtDevicePrepareHardware",
            "what is missing is a configuration error",
            "a BAR that is missing is a configuration error"
        ),
        Rule(
            "EvtDeviceReleaseHardware",
            "everything is given back",
            "a stop is the reverse, and bus mastering goes first"
        ),
        Rule(
            "EvtDeviceD0Entry",
            "a card that is found",
            "a start is in order, and bus mastering comes last but the queues"
        ),
        Rule("EvtDeviceD0Entry", "one that wakes", "sleep keeps the resources, and waking begins at d0Entry"),
        Rule(
            "EvtDeviceD0Exit",
            "not after a D0Entry that failed",
            "d0Entry that fails is followed by releaseHardware and not by d0Exit"
        ),
        Rule(
            "WRITE_OFFSETADDRESS",
            "the offset is checked",
            "an offset outside the window, misaligned or wrapping is refused and not kept"
        ),
        Rule(
            "IN_BUFFERED",
            "one aligned 32-bit store",
            "offset, write and read reach one word of the window"
        ),
        Rule("OUT_BUFFERED", "one aligned 32-bit load", "offset, write and read reach one word of the window"),
        Rule("READ_PADDRESS", "the whole address", "an address above 4 GiB is told whole or not at all"),
        Rule(
            "any other code",
            "no such request",
            "each failing path ends its request once, with information 0 and no access"
        ),
        Rule(
            "METHOD_BUFFERED",
            "below 16 KiB a copy, above none",
            "a payload is page-aligned, and copied only if it is small"
        ),
        Rule(
            "WdfRequestComplete",
            "a request that is dropped is answered",
            "a request that is dropped answers STATUS_UNSUCCESSFUL and is counted"
        ),
        Rule("read path", "six steps", "a read and a write are followed through six steps and to their end"),
        Rule("mapped memory", "no access out of bounds", "a run must lie in the BAR whole"),
        Rule("BAR2", "a write there is refused", "BAR2 is refused at the write, unless the mount allows it"),
        // Plug and Play and power.
        Rule("power-up", "the documented order", "a start is in order, and bus mastering comes last but the queues"),
        Rule(
            "orderly removal",
            "the documented order",
            "an orderly removal goes down from D0, releases, and flushes last"
        ),
        Rule(
            "surprise removal in D0",
            "the documented order",
            "a surprise removal in D0 says so first, then goes the whole way down"
        ),
        Rule(
            "surprise removal in Dx",
            "ReleaseHardware directly",
            "a surprise removal outside D0 releases the hardware directly"
        ),
        Rule(
            "IRP_MN_QUERY_STOP_DEVICE",
            "a card that cannot stop works on",
            "a card that cannot stop works on: query-stop is followed by cancel-stop and nothing else"
        ),
        Rule(
            "PrepareHardware fails",
            "ReleaseHardware follows",
            "prepareHardware that fails is followed by releaseHardware, once, and nothing else"
        ),
        Rule(
            "power-managed queues",
            "hold outside D0",
            "requests to a card that is stopped wait, and go on when it is started"
        ),
        Rule(
            "removal",
            "requests in flight end",
            "every request in flight ends with ENODEV when the card goes, and none hangs"
        ),
    ]

    /// Memory, memory descriptor lists and packet-based DMA; then common-buffer system DMA.
    static let memoryAndDMA = [
        Rule(
            "page frames",
            "contiguous addresses lie on frames apart",
            "frames are distinct and never follow each other"
        ),
        Rule(
            "four allocators",
            "each has a call of its own",
            "pool memory is counted by who asked, freed once, and under its own tag"
        ),
        Rule(
            "AllocateCommonBuffer",
            "at the start, or one page",
            "a large common buffer is taken before the start or not at all"
        ),
        Rule(
            "alignment",
            "non-cached memory begins on a page",
            "non-cached memory is whole pages on a page, of which the caller has what it asked for"
        ),
        Rule(
            "MmAllocateContiguousMemory",
            "bounds and boundaries",
            "contiguous memory keeps to its bounds and crosses no boundary"
        ),
        Rule("AllocateCommonBuffer", "whole pages are charged", "a common buffer is charged whole pages"),
        Rule("ExAllocatePoolWithTag", "a tag of printable characters", "a tag is one to four printable characters"),
        Rule(
            "ExAllocatePoolWithTag",
            "5 KB takes 8 KB, 4 KB and 1 KB take 5",
            "4 KB and 1 KB asked for one by one take 5 KB, 5 KB at once take 8"
        ),
        Rule("PagedPool", "at APC level or below", "paged memory is neither taken nor touched above APC level"),
        Rule("pool", "nothing is NULL and a status", "no bytes and too many are refused, and nothing is kept"),
        Rule("three address spaces", "virtual, physical, logical", "a range spans the pages it touches"),
        Rule("map registers", "needed and there", "12 registers are needed and 5 are there: three transfers"),
        Rule(
            "map registers",
            "pages below the card's limit",
            "registers are pages of one common buffer below the card's limit"
        ),
        Rule("IoGetDmaAdapter", "any width from 1 to 64", "any address width from 1 to 64 makes an adapter"),
        Rule(
            "ISA card",
            "scattered pages look like one run",
            "a card without scatter/gather gets three scattered pages as one run, their offset kept"
        ),
        Rule(
            "map register",
            "at most a page, at least a byte",
            "each register maps a piece of one page, and the card sees one run"
        ),
        Rule(
            "IRP",
            "a record with all that means something",
            "a pool hands out as many records as it has, and fresh ones"
        ),
        Rule("MdlAddress", "the direction is the request's", "the direction is that of the request"),
        Rule(
            "MdlAddress",
            "none for no bytes",
            "a buffer that is short or missing is too small, and no list describes it"
        ),
        Rule(
            "MmMapIoSpace",
            "every memory resource",
            "a start is in order, and bus mastering comes last but the queues"
        ),
        Rule("MmUnmapIoSpace", "also where the start fails", "a BAR that cannot be mapped leaves nothing mapped"),
        Rule(
            "CM_RESOURCE_LIST",
            "types other than memory pass",
            "a list that begins with an interrupt or a port is as good as another"
        ),
        Rule("READ_REGISTER", "one access of its width", "a value has exactly the bits of its width"),
        Rule(
            "DO_BUFFERED_IO",
            "chosen by size and by code",
            "a payload is page-aligned, and copied only if it is small"
        ),
        Rule(
            "buffered I/O",
            "one copy, limited by Information",
            "buffered: one buffer for both ways, of which the caller gets what the driver says"
        ),
        Rule(
            "direct I/O",
            "the list goes to the adapter",
            "in-direct: the output buffer is locked and its bytes are for the device"
        ),
        Rule(
            "MmGetSystemAddressForMdlSafe",
            "an address on demand",
            "pages are locked for a list, have an address on demand, and are let go with it"
        ),
        Rule(
            "GetScatterGatherList",
            "pairs in a table",
            "a list goes into a table in a common buffer, or says that it does not fit"
        ),
        Rule(
            "packet and common buffer",
            "both kinds are there",
            "a stream comes back byte for byte, whatever its pieces"
        ),
        Rule(
            "packets",
            "5000 bytes are 4096 and 904",
            "a list covers a buffer in runs of at most what a descriptor takes"
        ),
        Rule("AllocateCommonBuffer", "at passive level", "each routine is refused outside its levels, and named"),
        Rule(
            "AllocateCommonBuffer",
            "no memory leaves nothing",
            "a common buffer that cannot be made leaves nothing behind"
        ),
        Rule(
            "common buffer",
            "below the card's limit",
            "the logical address is aligned as asked and below the card's limit"
        ),
        Rule(
            "IoAllocateMdl",
            "pages of address and length",
            "a list describes a range, and knows nothing of its pages"
        ),
        Rule("IoAllocateMdl", "what cannot be described", "what cannot be described is refused"),
        Rule(
            "MmBuildMdlForNonPagedPool",
            "non-paged, never locked",
            "a list of non-paged memory knows the frames, has an address, and is never locked"
        ),
        Rule(
            "system DMA",
            "one order of calls",
            "the calls come in one order, and the buffer is mapped once and gone round for ever"
        ),
        Rule("system DMA", "no other order", "each call out of its turn is refused, and changes nothing"),
        Rule(
            "AllocateAdapterChannel",
            "too many registers: never called",
            "who asks for more registers than there are is refused, and never called"
        ),
        Rule(
            "AllocateAdapterChannel",
            "first come, first served",
            "the channel goes to who came first, once for each device at a time"
        ),
        Rule("AdapterControl", "three answers", "each answer leaves exactly what it says"),
        Rule(
            "AdapterControl",
            "system DMA keeps the channel",
            "a routine that does not keep the channel loses it at once"
        ),
        Rule(
            "MapTransfer",
            "a list of a common buffer, at its levels",
            "only a common buffer is mapped, and only at the right levels"
        ),
        Rule(
            "MapTransfer",
            "what is outside is refused",
            "what cannot be mapped or flushed is refused, and nothing changes"
        ),
        Rule(
            "ReadDmaCounter",
            "counts down and begins anew",
            "a channel counts down, starts anew at the end, and stops when it is masked"
        ),
        Rule(
            "FreeAdapterChannel",
            "the next one has it",
            "who asks for a channel that is held waits, first come first served"
        ),
    ]

    /// What the original driver did wrong.
    static let defects = [
        Rule(
            "WdfRequestComplete",
            "completed twice",
            "cancel and completion race for one claim: there is exactly one winner"
        ),
        Rule("WdfRequestComplete", "a failure that tells bytes", "a failure tells no bytes"),
        Rule(
            "input buffer",
            "used before it is checked",
            "each failing path ends its request once, with information 0 and no access"
        ),
        Rule(
            "offset",
            "of the device, not of the open file",
            "the offset belongs to the open file, and is not the mount's"
        ),
        Rule("offset", "no bound", "an offset outside the window, misaligned or wrapping is refused and not kept"),
        Rule("BAR0", "taken for the first of the list", "resources name each BAR, whatever lies between"),
        Rule(
            "MmMapIoSpace",
            "mapped twice, unmapped once",
            "a start is in order, and bus mastering comes last but the queues"
        ),
        Rule("MmMapIoSpace", "failure unseen", "a BAR that cannot be mapped leaves nothing mapped"),
        Rule(
            "resource list",
            "an interrupt first is a failure",
            "a list that begins with an interrupt or a port is as good as another"
        ),
        Rule("Start.LowPart", "half an address", "a BAR above 4 GiB keeps its whole address"),
        Rule("pointer stores", "split or merged", "a value has exactly the bits of its width"),
        Rule("PCIE_READ_MEMORY_OFFSET", "unused", "registers have names, sizes and modes"),
        Rule("MMIO", "outside D0", "a card that is stopped answers not-in-D0, and answers again when it is started"),
        Rule("PAGED_CODE", "at the wrong level", "the driver's callbacks run at passive level"),
        Rule("READ_PADDRESS", "told to anybody", "registers have names, sizes and modes"),
        Rule("DPC", "clears the other channel", "each vector has its reason"),
    ]
}
