// swift-tools-version:6.1
import PackageDescription

let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")

let package = Package(
    name: "webllm-gateway",
    platforms: [.macOS(.v15)],
    products: [.executable(name: "webllm-gateway", targets: ["webllm-gateway"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
        .package(url: "https://github.com/LebJe/TOMLKit", from: "0.6.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/apple/swift-crypto", "3.12.3"..<"5.0.0"),
    ],
    targets: [
        .target(name: "CCurl", linkerSettings: [.linkedLibrary("curl")]),
        .target(name: "CSimdJSON", linkerSettings: [.linkedLibrary("simdjson")]),
        .target(name: "CurlMulti", dependencies: ["CCurl"], swiftSettings: strict),
        .target(name: "GatewayCore", swiftSettings: strict),
        .target(name: "GatewayWire", dependencies: ["CSimdJSON", "GatewayCore", nioCore], swiftSettings: strict),
        .target(
            name: "GatewayServer",
            dependencies: [
                "CurlMulti", "GatewayCore", "GatewayWire", nioCore, nioPosix, nioHTTP1, logging,
                .product(name: "TOMLKit", package: "TOMLKit"),
                .product(name: "GRDB", package: "GRDB.swift"), .product(name: "GRDBSQLite", package: "GRDB.swift"),
                .product(name: "Crypto", package: "swift-crypto"),
            ],
            resources: [
                .embedInCode("Pages/chat.html"), .embedInCode("Pages/chat.css"), .embedInCode("Pages/chat.js"),
                .embedInCode("Pages/dashboard.html"), .embedInCode("Pages/dashboard.css"),
                .embedInCode("Pages/dashboard.js"), .embedInCode("Pages/dashboard_charts.js"),
                .embedInCode("Pages/dashboard_parts.js"), .embedInCode("Pages/dashboard_request.js"),
                .embedInCode("Pages/docs.html"), .embedInCode("Pages/docs.css"), .embedInCode("Pages/docs.js"),
                .embedInCode("Pages/openapi.json"),
            ],
            swiftSettings: strict
        ),
        .executableTarget(
            name: "webllm-gateway",
            dependencies: [
                "GatewayCore", "GatewayServer", logging,
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ],
            swiftSettings: strict,
            // Takes malloc's place; sanitizers, which need their own, come with debug builds.
            linkerSettings: [.linkedLibrary("mimalloc", .when(configuration: .release))]
        ),
        .target(name: "Support", dependencies: [nioCore, nioPosix], path: "Tests/Support", swiftSettings: strict),
        .target(
            name: "FuzzTargets",
            dependencies: [
                "CurlMulti", "GatewayCore", "GatewayServer", "GatewayWire", nioCore, logging,
                .product(name: "NIOEmbedded", package: "swift-nio"),
            ],
            path: "Tests/FuzzTargets", swiftSettings: strict),
        .testTarget(name: "CurlMultiTests", dependencies: ["CurlMulti", "Support"], swiftSettings: strict),
        .testTarget(name: "GatewayCoreTests", dependencies: ["GatewayCore"], swiftSettings: strict),
        .testTarget(
            name: "GatewayWireTests", dependencies: ["GatewayWire", "GatewayCore", nioCore],
            resources: [.copy("Fixtures")], swiftSettings: strict),
        .testTarget(
            name: "GatewayServerTests",
            dependencies: [
                "GatewayServer", "FuzzTargets", "CurlMulti", "GatewayCore", "GatewayWire", "Support", nioCore, nioHTTP1,
                nioPosix, logging, .product(name: "NIOEmbedded", package: "swift-nio"),
                .product(name: "GRDB", package: "GRDB.swift"), .product(name: "Crypto", package: "swift-crypto"),
            ],
            resources: [.copy("Fixtures"), .copy("FuzzCorpus")],
            swiftSettings: strict
        ),
    ],
    cxxLanguageStandard: .cxx17
)

// The fuzzer links only with its own flags: scripts/fuzz.
if Context.environment["WEBLLM_GATEWAY_FUZZ"] != nil {
    package.targets.append(
        .executableTarget(name: "Fuzz", dependencies: ["FuzzTargets"], path: "Tests/Fuzz", swiftSettings: strict))
}
