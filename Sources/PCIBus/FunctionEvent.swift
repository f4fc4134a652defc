/// What a bus tells of a function by itself, without being asked.
public enum FunctionEvent: Sendable, CaseIterable {
    /// The machine wants the function back and waits for it (the release request of VFIO, IRP_MN_QUERY_REMOVE_DEVICE).
    case releaseRequested
    /// The function has left the bus (IRP_MN_SURPRISE_REMOVAL).
    case removed
    /// The function has reported an uncorrectable error (the error interrupt of VFIO, PCI Express AER).
    case failed
}

/// Takes the events of a function. Called on any thread of the bus, at passive level; it does not wait.
public typealias FunctionEventHandler = @Sendable (FunctionEvent) -> Void

// What a bus need not have.
extension PCIFunction {
    /// This bus tells of nothing.
    public func setEventHandler(_ handler: FunctionEventHandler?) {}

    /// Nothing is held that the machine could want back.
    public func detach() {}

    /// It was not given back.
    public func attach() throws(BusError) {}
}
