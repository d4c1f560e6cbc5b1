import GatewayWire
import NIOCore

/// A reply's head beside what the connection adds itself (length, date, connection).
struct ReplyHead: Sendable {
    var status: Int
    var contentType = "application/json"
    var requestID: String?
    /// Names and values of our own making, already valid.
    var fields: [(name: StaticString, value: String)] = []

    init(_ status: Int, contentType: String = "application/json", requestID: String? = nil) {
        self.status = status
        self.contentType = contentType
        self.requestID = requestID
    }
}

/// A whole reply.
struct Reply: Sendable {
    var head: ReplyHead
    var body: ByteBuffer

    init(_ head: ReplyHead, body: ByteBuffer) {
        self.head = head
        self.body = body
    }

    /// A JSON reply written by `fields` between braces.
    static func object(_ status: Int = 200, _ fields: (inout JSONWriter) -> Void) -> Reply {
        var writer = JSONWriter()
        writer.beginObject()
        fields(&writer)
        writer.endObject()
        return Reply(ReplyHead(status), body: writer.buffer)
    }

    static func error(_ status: Int, _ message: String) -> Reply {
        object(status) { $0.field("error", message) }
    }

    init(_ refusal: RequestRefusal) {
        self = .error(refusal.status, refusal.message)
        if let allow = refusal.allow { head.fields.append(("Allow", allow)) }
        if let seconds = refusal.retryAfter { head.fields.append(("Retry-After", "\(seconds)")) }
        if let challenge = refusal.challenge { head.fields.append(("WWW-Authenticate", challenge)) }
    }
}

/// How the body of a reply is delimited (RFC 9112 section 6).
enum ReplyFraming: Sendable {
    case length(Int)
    case chunked
    /// HTTP/1.0 knows no chunks: the end of the connection is the end of the body.
    case close
}

extension ByteBuffer {
    /// Writes a head straight: every name and value in it is our own, so nothing needs the general encoder.
    mutating func writeHead(_ head: ReplyHead, framing: ReplyFraming, connection: StaticString?, date: String) {
        let reason = Self.reason(head.status)
        var room = 256 + reason.utf8CodeUnitCount + date.utf8.count + head.contentType.utf8.count
        room += head.requestID?.utf8.count ?? 0
        room += connection?.utf8CodeUnitCount ?? 0
        for (name, value) in head.fields { room += name.utf8CodeUnitCount + value.utf8.count + 4 }
        write(atMost: room) { cursor in
            cursor.put("HTTP/1.1 ")
            cursor.putDecimal(head.status)
            cursor.put(" ")
            cursor.put(reason)
            cursor.put("\r\nDate: ")
            cursor.putText(date)
            if head.status != 204 && head.status != 304 {
                cursor.put("\r\nContent-Type: ")
                cursor.putText(head.contentType)
                switch framing {
                case .length(let length):
                    cursor.put("\r\nContent-Length: ")
                    cursor.putDecimal(length)
                case .chunked: cursor.put("\r\nTransfer-Encoding: chunked")
                case .close: break
                }
            }
            if let requestID = head.requestID {
                cursor.put("\r\nX-Request-Id: ")
                cursor.putText(requestID)
            }
            for (name, value) in head.fields {
                cursor.put("\r\n")
                cursor.put(name)
                cursor.put(": ")
                cursor.putText(value)
            }
            cursor.put("\r\nX-Content-Type-Options: nosniff\r\n")
            if let connection {
                cursor.put("Connection: ")
                cursor.put(connection)
                cursor.put("\r\n")
            }
            cursor.put("\r\n")
        }
    }

    private static func reason(_ status: Int) -> StaticString {
        switch status {
        case 200: "OK"
        case 204: "No Content"
        case 308: "Permanent Redirect"
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 408: "Request Timeout"
        case 409: "Conflict"
        case 411: "Length Required"
        case 413: "Content Too Large"
        case 415: "Unsupported Media Type"
        case 417: "Expectation Failed"
        case 421: "Misdirected Request"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 500: "Internal Server Error"
        case 501: "Not Implemented"
        case 502: "Bad Gateway"
        case 503: "Service Unavailable"
        case 504: "Gateway Timeout"
        default: "Unknown"
        }
    }

    /// An empty buffer becomes one chunk, its size put before what `write` wrote: a token is written once and not copied.
    /// - Parameter write: writes something, as a chunk of nothing would be the last one (RFC 9112 section 7.1).
    mutating func becomeChunk(_ write: (inout ByteBuffer) -> Void) {
        let room = 18  // 16 hexadecimal digits and a line end
        reserveCapacity(minimumWritableBytes: room)
        moveWriterIndex(to: room)
        write(&self)
        var size = writerIndex - room
        writeStaticString("\r\n")
        var start = room - 2
        withUnsafeMutableReadableBytes { bytes in
            bytes[start] = 0x0D
            bytes[start + 1] = 0x0A
            repeat {
                start -= 1
                bytes[start] = UInt8(size & 15).hexDigit
                size >>= 4
            } while size > 0
        }
        moveReaderIndex(to: start)
    }

    /// One chunk of a chunked body (RFC 9112 section 7.1).
    mutating func writeChunk(_ body: ByteBuffer) {
        guard body.readableBytes > 0 else { return }
        writeString(String(body.readableBytes, radix: 16))
        writeStaticString("\r\n")
        writeImmutableBuffer(body)
        writeStaticString("\r\n")
    }
}
