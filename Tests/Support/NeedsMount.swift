public import Testing

extension Trait where Self == ConditionTrait {
    /// For suites that mount: skipped where the machine does not let the tests do it.
    public static var needsMount: Self {
        .enabled(if: canMount, "needs /dev/fuse, and root or fusermount3")
    }
}
