import GatewayCore
import Testing

/// Durations, sizes and addresses as gateway.conf writes them.
struct TextValueTests {
    @Test(arguments: [
        ("250ms", Duration.milliseconds(250)), ("2s", .seconds(2)), ("1.5s", .milliseconds(1500)),
        ("5m", .seconds(300)),
        ("1h", .seconds(3600)), ("30d", .seconds(2_592_000)), ("0s", .zero), ("3650d", .seconds(3650 * 86_400)),
        ("100000d", .seconds(100_000 * 86_400)),
    ])
    func durationsAreRead(_ text: String, _ duration: Duration) throws {
        #expect(try DurationText.parse(text) == duration)
        #expect(try DurationText.parse(DurationText.format(duration)) == duration)
    }

    @Test(arguments: ["", "5", "s", "-1s", "1 s", "1e3s", "５s", "1s2", "99999999999d", "1.2.3s", "100001d"])
    func otherTextsAreNoDurations(_ text: String) {
        #expect(throws: TextFault.self) { try DurationText.parse(text) }
    }

    @Test(arguments: [("512B", 512), ("64KiB", 65536), ("4MiB", 4 << 20), ("1GiB", 1 << 30)])
    func sizesAreRead(_ text: String, _ bytes: Int) throws {
        #expect(try ByteSizeText.parse(text) == bytes)
        #expect(ByteSizeText.format(bytes) == text)
    }

    @Test(arguments: ["", "5", "4MB", "-1B", "1.5KiB", "KiB", "99999999999999999999B", "9000000000GiB"])
    func otherTextsAreNoSizes(_ text: String) { #expect(throws: TextFault.self) { try ByteSizeText.parse(text) } }

    @Test(arguments: [
        ("http://127.0.0.1:11434", UpstreamURL(host: "127.0.0.1", port: 11434)),
        ("http://localhost", UpstreamURL(host: "localhost", port: 80)),
        (
            "https://gpu-1.example.org/api/",
            UpstreamURL(isTLS: true, host: "gpu-1.example.org", port: 443, basePath: "/api", endsInSlash: true)
        ),
        ("http://[::1]:5000/query/", UpstreamURL(host: "::1", port: 5000, basePath: "/query", endsInSlash: true)),
    ])
    func upstreamAddressesAreRead(_ text: String, _ url: UpstreamURL) throws {
        #expect(try UpstreamURL.parse(text) == url)
    }

    @Test(arguments: [
        "", "127.0.0.1:11434", "file:///etc/passwd", "gopher://a", "http://", "http://user:pw@h", "http://h?a=b",
        "http://h#f",
        "http://127.1", "http://0x7f000001", "http://1", "http://256.0.0.1", "http://127.0.0.01", "http://h:0",
        "http://h:70000",
        "http://h:", "http://[::1", "http://a b", "http://h\r\nX: y", "http://é", "http://[::::::]", "http://...",
        "http://a..b", "http://.a", "http://h:+80", "http://1.2.3.4.",
    ])
    func otherTextsAreNoUpstreamAddresses(_ text: String) {
        #expect(throws: TextFault.self) { try UpstreamURL.parse(text) }
    }

    @Test func listenAddresses() throws {
        #expect(try ListenAddress.parse("127.0.0.1:8000") == .tcp(host: "127.0.0.1", port: 8000))
        #expect(try ListenAddress.parse("[::1]:0") == .tcp(host: "::1", port: 0))
        #expect(try ListenAddress.parse("unix:/run/g.sock") == .unix(path: "/run/g.sock"))
        #expect(try ListenAddress.parse("[0:0::1]:80") == .tcp(host: "::1", port: 80), "the same address twice is seen")
        for text in [
            "", "8000", "localhost:8000", "127.0.0.1", "127.0.0.1:x", "::1:8000", "unix:relative", "1.2.3:4",
            "[:::::]:80", "127.0.0.1:+80", "+127.0.0.1:80", "0127.0.0.1:80", "127.0.0.1:", "127.0.0.1:65536",
            "127.0.0.1\0:80", "unix:/a\0b", "unix:/" + String(repeating: "a", count: 99),
        ] {
            #expect(throws: TextFault.self, "\(text)") { try ListenAddress.parse(text) }
        }
        #expect(ListenAddress.temporaryPath(of: "/g.sock", process: 4_194_304).utf8.count == "/g.sock".utf8.count + 8)
    }

    @Test func aMistypedWordFindsItsNeighbour() {
        #expect(NearestWord.suggest("max_inflight", among: ["max_in_flight", "max_queue"]) == "max_in_flight")
        #expect(NearestWord.suggest("zzz", among: ["max_in_flight", "max_queue"]) == nil)
    }
}
