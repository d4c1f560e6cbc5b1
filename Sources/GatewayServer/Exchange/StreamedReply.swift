import GatewayWire
import NIOCore

/// A streamed answer on its way to the client: its head goes out with the first piece. It never leaves its event loop.
final class StreamedReply {
    private let writer: TokenStreamWriter
    private let connection: HTTPConnection
    private(set) var hasStarted = false
    /// Whether the client has a part of the answer; what keeps the stream alive is none.
    private(set) var hasToken = false

    init(_ format: TokenStreamWriter.Format, over connection: HTTPConnection) {
        writer = TokenStreamWriter(format)
        self.connection = connection
    }

    var contentType: String { writer.contentType }

    /// Whether the client takes bytes as fast as they come.
    var isWritable: Bool { connection.isWritable }

    /// - Parameter head: nil once the stream has started.
    func send(_ pieces: [String], head: ReplyHead? = nil) {
        hasToken = true
        write(head) { output in
            for piece in pieces { writer.token(piece, into: &output) }
        }
    }

    func heartbeat(head: ReplyHead? = nil) {
        write(head) { writer.heartbeat(into: &$0) }
    }

    private func write(_ head: ReplyHead?, _ body: (inout ByteBuffer) -> Void) {
        guard let head else { return connection.stream(body) }
        hasStarted = true
        var first = ByteBuffer()
        body(&first)
        connection.startStream(head, first: first)
    }

    func end(_ reply: InferReply) {
        var last = ByteBuffer()
        if !hasToken, !reply.text.isEmpty { writer.token(reply.text, into: &last) }
        writer.done(reply, into: &last)
        connection.endStream(last: last)
    }

    func fail(_ message: String, requestID: String) {
        var last = ByteBuffer()
        writer.error(message, requestID: requestID, into: &last)
        connection.endStream(last: last)
    }
}
