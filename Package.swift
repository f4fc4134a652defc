// swift-tools-version: 6.3

import PackageDescription

// One target per layer, and a layer depends only on what is below it:
//
//   cardfs → CardFS, CardDrivers → DriverCore → PCIBus ← SimulatedCard, VFIOBus
//
// CardFS and CardDrivers do not know each other; cardfs brings them and the buses together.
// CFuse, CHardware and CVFIO hold what Swift cannot say: libfuse's macros, volatile accesses, barriers, ioctl numbers.

let swiftSettings: [SwiftSetting] = [
    // `any P` is spelled out, so that a dynamic dispatch is seen where it happens.
    .enableUpcomingFeature("ExistentialAny"),
    // What a file imports stays its own business unless it says `public import`.
    .enableUpcomingFeature("InternalImportsByDefault"),
    // A member is visible only where its module is imported.
    .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
    name: "cardfs",
    products: [
        .executable(name: "cardfs", targets: ["cardfs"])
    ],
    dependencies: [
        // The command line: sub-commands, help and its formatting, value parsing with errors a person can read.
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        // Log messages of the set-up and error paths: standard error in the foreground, the system log otherwise.
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        // Latency percentiles of cardfs bench: High Dynamic Range histograms, whose error is bounded over all magnitudes.
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        .systemLibrary(
            name: "CFuse",
            pkgConfig: "fuse3",
            providers: [.apt(["libfuse3-dev"])]
        ),
        .target(name: "CHardware"),
        .target(
            name: "PCIBus",
            dependencies: ["CHardware"],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "SimulatedCard",
            dependencies: ["PCIBus", "CHardware"],
            swiftSettings: swiftSettings
        ),
        .target(name: "CVFIO"),
        .target(
            name: "VFIOBus",
            dependencies: ["PCIBus", "CHardware", "CVFIO"],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "DriverCore",
            dependencies: ["PCIBus", "CHardware"],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "CardDrivers",
            dependencies: ["DriverCore", "PCIBus", "CHardware"],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "CardFS",
            dependencies: [
                "CFuse", "CHardware", "DriverCore", "PCIBus",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings
        ),
        .executableTarget(
            name: "cardfs",
            dependencies: [
                "CardFS", "CardDrivers", "DriverCore", "PCIBus", "SimulatedCard", "VFIOBus", "CFuse",
                "CHardware", "CVFIO",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "CProbe",
            path: "Tests/CProbe"
        ),
        .target(
            name: "Fuzz",
            path: "Tests/Fuzz",
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "PCIBusTests",
            dependencies: ["PCIBus", "CHardware", "Fuzz"],
            swiftSettings: swiftSettings
        ),
        .target(
            name: "TestSupport",
            dependencies: ["CardFS", "CHardware", "PCIBus"],
            path: "Tests/Support",
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "CommandTests",
            dependencies: [
                "cardfs", "CardFS", "PCIBus", "TestSupport", "Fuzz", .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "MountTests",
            dependencies: ["cardfs", "TestSupport", "PCIBus"],
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "SimulatedCardTests",
            dependencies: ["SimulatedCard", "PCIBus", "CHardware"],
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "VFIOBusTests",
            dependencies: ["VFIOBus", "CVFIO", "PCIBus", "CHardware", "Fuzz"],
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "DriverCoreTests",
            dependencies: ["DriverCore", "PCIBus", "CHardware", "Fuzz"],
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "CardDriversTests",
            dependencies: ["CardDrivers", "SimulatedCard", "DriverCore", "PCIBus", "CHardware"],
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "ProtocolTests",
            dependencies: [
                "CardFS", "CardDrivers", "SimulatedCard", "DriverCore", "PCIBus", "CFuse", "CHardware", "CProbe",
                "Fuzz",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: swiftSettings
        ),
        .testTarget(
            name: "CardFSTests",
            dependencies: ["CardFS", "PCIBus", "CProbe", "Fuzz", .product(name: "Logging", package: "swift-log")],
            swiftSettings: swiftSettings
        ),
    ],
    swiftLanguageModes: [.v6]
)
