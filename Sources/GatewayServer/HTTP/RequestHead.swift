import GatewayCore
import GatewayWire
import NIOHTTP1

/// What the gateway needs of a request's head, read in one pass over the headers.
struct RequestHead: Sendable {
    var method: HTTPMethod
    /// Percent-encoded, without the query.
    var path: Substring
    /// Percent-encoded, without the `?`.
    var query: Substring?
    var contentLength: Int?
    var isChunked = false
    /// Media type without parameters, lower case.
    var contentType: String?
    var acceptsNDJSON = false
    var expectsContinue = false
    var keepAlive: Bool
    var isHTTP10 = false
    /// The client's own `X-Request-Id`, where it is one we can pass on.
    var requestID: String?
    /// The upstream that the client asks for.
    var pinnedUpstream: String?
    /// As sent, for the admin listener's checks.
    var host = ""
    var origin: String?
    /// A browser's word that its page is of this very origin, also where a proxy in between has put another Host.
    var isSameOriginFetch = false
    /// Its word that another site's page sends it.
    var isOtherSiteFetch = false
    var authorization: String?

    var hasBody: Bool { isChunked || (contentLength ?? 0) > 0 }

    /// Stands for a request whose head was refused.
    static let unreadable = Shared(RequestHead())

    private init() {
        method = .GET
        path = "/"
        keepAlive = false
    }

    /// Stands for one that was read, and that is not accepted.
    init(refused head: HTTPRequestHead) {
        self.init()
        method = head.method
        requestID = head.headers["x-request-id"].last(where: \.isRequestID)
    }
}

extension RequestHead {
    /// Reads and checks a head. What NIO's parser accepts and RFC 9112 does not is refused here.
    /// - Parameter maxHead: bytes of request line and headers together.
    init(_ head: HTTPRequestHead, maxHead: Int) throws(RequestRefusal) {
        // The parser lets HTTP/1.1 and 1.0 alone through, but also the methods of RTSP and others that look alike.
        switch head.method {
        case .GET, .HEAD, .POST, .PUT, .DELETE, .PATCH, .OPTIONS, .TRACE, .CONNECT: method = head.method
        default: throw RequestRefusal(501, "Unknown method")
        }
        isHTTP10 = head.version.minor == 0
        keepAlive = head.isKeepAlive
        let target = head.uri
        guard target.utf8.first == UInt8(ascii: "/") || (target == "*" && head.method == .OPTIONS) else {
            throw RequestRefusal(400, "The request target must be a path")
        }
        guard target.withBytes({ $0.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "#") } }) else {
            throw RequestRefusal(400, "The request target holds characters that must be percent-encoded")
        }
        if let offset = target.withBytes({ $0.firstIndex(of: UInt8(ascii: "?")) }) {
            let mark = target.utf8.index(target.startIndex, offsetBy: offset)
            path = target[..<mark]
            query = target[target.utf8.index(after: mark)...]
        } else {
            path = target[...]
        }
        var fields = FieldScan(isHTTP10: head.version.minor == 0)
        var size = target.utf8.count
        for (name, value) in head.headers {
            size += name.utf8.count + value.utf8.count + 4
            try fields.read(name: name, value: value, into: &self)
        }
        guard size <= maxHead else { throw RequestRefusal(431, "Request headers exceed \(maxHead) bytes") }
        try fields.finish(&self)
    }
}

/// What must be remembered across header fields to check them as a whole.
private struct FieldScan {
    var isHTTP10: Bool
    var hosts = 0
    var transferEncodings = 0
    var upgrade = false
    var connectionUpgrade = false
    /// How much the client wants either form of a stream, 0...1.
    var ndjson = 0.0
    var events = 0.0

    mutating func read(name: String, value: String, into head: inout RequestHead) throws(RequestRefusal) {
        guard !name.withBytes({ $0.contains(UInt8(ascii: "_")) }) else {
            throw RequestRefusal(400, "Header names with an underscore are not accepted")
        }
        switch name.utf8.count {
        case 4 where name.isCaselessEqual("host"):
            hosts += 1
            guard value.isValidHost else { throw RequestRefusal(400, "Invalid Host header") }
            head.host = value
        case 6 where name.isCaselessEqual("accept"):
            ndjson = max(ndjson, value.quality(of: "application/x-ndjson"))
            events = max(events, value.quality(of: "text/event-stream"))
        case 6 where name.isCaselessEqual("expect"):
            guard value.isCaselessEqual("100-continue") else {
                throw RequestRefusal(417, "Only Expect: 100-continue is supported")
            }
            head.expectsContinue = !isHTTP10
        case 6 where name.isCaselessEqual("origin"):
            head.origin = value
        case 14 where name.isCaselessEqual("sec-fetch-site"):
            head.isSameOriginFetch = value == "same-origin"
            head.isOtherSiteFetch = value != "same-origin" && value != "none"
        case 13 where name.isCaselessEqual("authorization"):
            // Others go through a lossy conversion: two that differ could compare equal.
            guard value.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7F }) else {
                throw RequestRefusal(400, "The Authorization header holds characters outside ASCII")
            }
            guard head.authorization == nil else { throw RequestRefusal(400, "Two Authorization headers") }
            head.authorization = value
        case 7 where name.isCaselessEqual("upgrade"):
            upgrade = true
        case 10 where name.isCaselessEqual("connection"):
            if value.containsCaseless("upgrade") { connectionUpgrade = true }
        case 12 where name.isCaselessEqual("content-type"):
            head.contentType = value.mediaType
        case 12 where name.isCaselessEqual("x-request-id"):
            if value.isRequestID { head.requestID = value }
        case 14 where name.isCaselessEqual("content-length"):
            guard let length = Int(value), value.utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else {
                throw RequestRefusal(400, "Invalid Content-Length")
            }
            head.contentLength = length
        case 18 where name.isCaselessEqual("x-gateway-upstream"):
            head.pinnedUpstream = value
        case 17 where name.isCaselessEqual("transfer-encoding"):
            transferEncodings += 1
            guard !isHTTP10, transferEncodings == 1, !value.isEmpty else {
                throw RequestRefusal(400, "Invalid Transfer-Encoding")
            }
            guard value.isCaselessEqual("chunked") else {
                throw RequestRefusal(501, "Only Transfer-Encoding: chunked is supported")
            }
            head.isChunked = true
        default: break
        }
    }

    func finish(_ head: inout RequestHead) throws(RequestRefusal) {
        guard hosts == 1 || (hosts == 0 && isHTTP10) else {
            throw RequestRefusal(400, hosts == 0 ? "Missing Host header" : "More than one Host header")
        }
        guard !(head.isChunked && head.contentLength != nil) else {
            throw RequestRefusal(400, "Content-Length and Transfer-Encoding exclude each other")
        }
        head.acceptsNDJSON = ndjson > 0 && ndjson >= events
        // An upgrade is never taken, and the request is answered; but the parser reads nothing behind it.
        if head.method == .CONNECT || (upgrade && connectionUpgrade) { head.keepAlive = false }
    }
}

extension String {
    /// ASCII case-insensitive equality; `lowercase` must be lower case.
    func isCaselessEqual(_ lowercase: StaticString) -> Bool { withBytes { $0.isCaselessEqual(lowercase) } }

    /// Whether an ASCII token stands anywhere inside, in any case.
    func containsCaseless(_ lowercase: String) -> Bool {
        let needle = Array(lowercase.utf8)
        let hay = utf8.map { $0 | ($0 >= 0x41 && $0 <= 0x5A ? 0x20 : 0) }
        guard hay.count >= needle.count else { return false }
        return (0...(hay.count - needle.count)).contains { hay[$0..<($0 + needle.count)].elementsEqual(needle) }
    }

    /// How much an Accept header wants a media type that it names (RFC 9110 section 12.5.1), 0...1.
    fileprivate func quality(of type: String) -> Double {
        guard utf8.count >= type.utf8.count, containsCaseless(type) else { return 0 }
        return split(separator: ",").map { range in
            let parts = range.split(separator: ";").map { $0.lowercased().filter { $0 != " " && $0 != "\t" } }
            guard parts.first == type else { return 0 }
            let weight = parts.dropFirst().last { $0.hasPrefix("q=") }
            return weight.map { Double($0.dropFirst(2)) ?? 0 } ?? 1
        }.max() ?? 0
    }

    /// `application/json; charset=utf-8` is `application/json`.
    fileprivate var mediaType: String {
        if isCaselessEqual("application/json") { return "application/json" }
        let end = utf8.firstIndex(of: UInt8(ascii: ";")) ?? endIndex
        return self[..<end].lowercased().filter { $0 != " " && $0 != "\t" }
    }

    /// RFC 3986 host and optional port: letters, digits, `-._~`, an IPv6 literal in brackets.
    fileprivate var isValidHost: Bool {
        if utf8.first == UInt8(ascii: "[") {
            guard let end = utf8.firstIndex(of: UInt8(ascii: "]")),
                NumericAddress.isIPv6(self[utf8.index(after: startIndex)..<end])
            else { return false }
            return String(self[utf8.index(after: end)...]).withBytes { $0[...].isPortOrNothing }
        }
        return withBytes { bytes in
            let end = bytes.firstIndex(of: UInt8(ascii: ":")) ?? bytes.count
            return end > 0 && bytes[..<end].allSatisfy(\.isHostByte) && bytes[end...].isPortOrNothing
        }
    }

    /// 1 to 128 of `[A-Za-z0-9._-]`: safe in headers and in logs.
    var isRequestID: Bool {
        (1...128).contains(utf8.count)
            && utf8.allSatisfy { byte in
                switch byte {
                case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"):
                    true
                default: false
                }
            }
    }
}

extension Slice<UnsafeBufferPointer<UInt8>> {
    /// Nothing, or a colon and a number up to 65535, which may be left out.
    fileprivate var isPortOrNothing: Bool {
        guard let colon = first else { return true }
        var port = 0
        for byte in dropFirst() {
            guard (0x30...0x39).contains(byte) else { return false }
            port = Swift.min(port * 10 + Int(byte & 15), 65_536)
        }
        return colon == UInt8(ascii: ":") && port <= 65_535
    }
}

extension UInt8 {
    fileprivate var isHostByte: Bool {
        switch self {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
            UInt8(ascii: "~"):
            true
        default: false
        }
    }
}
