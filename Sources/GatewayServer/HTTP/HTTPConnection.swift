import GatewayCore
import GatewayWire
import NIOCore
import NIOHTTP1

/// Serves one client connection: one request after another, in order, each with exactly one reply.
///
/// NIO's parser has delivered heads and bodies; framing faults, limits, timers and pipelining are this type's.
/// No work starts on a head alone: a request is handed on when its body is complete, or refused where its head tells.
final class HTTPConnection: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = ByteBuffer

    private enum State {
        /// Before a request's first byte, or inside its head.
        case idle
        case receiving(Shared<RequestHead>, Routes.Verdict, body: ByteBuffer)
        /// A request is being answered; a stream's head may be out already.
        case replying(Shared<RequestHead>, streaming: ReplyFraming?)
        /// The reply is complete, but its client has yet to take so much of it that the next request waits.
        case answered
        case closed
    }

    /// After the last reply, while its client may still read it.
    private struct Lingering {
        /// When the client had all, or now, while it has not.
        var since: MonotonicTime
        var lastInput: MonotonicTime
        /// When so few bytes were first left that the client's system had not acknowledged.
        var lastProgress: MonotonicTime
        var unacknowledged = Int.max

        init(since now: MonotonicTime) {
            since = now
            lastInput = now
            lastProgress = now
        }
    }

    private let gateway: Gateway
    private let loop: LoopContext
    private let routes: Routes
    /// Whose connection it is: a hash of the client's address.
    let client: ClientID
    /// For operators; `unix` for all that come over a Unix socket.
    let clientAddress: String
    /// The configuration as of the present request's head.
    private(set) var snapshot: Snapshot
    private var context: ChannelHandlerContext?
    /// The context's, which takes longer to give it.
    private var channel: (any Channel)?
    private var socket: ClientSocket?
    /// Writes that the channel keeps until the socket takes them. While there are any, all others go behind them.
    private var unsentWrites = 0
    private var state: State = .idle
    private var lingering: Lingering?
    /// Without input, when the client has all.
    private static let lingerQuiet: Duration = .milliseconds(500)
    private static let lingerMost: Duration = .seconds(30)
    private var exchange: Exchange?
    /// In place of an exchange, where an operator's dashboard listens.
    private var feed: DashboardFeed?
    private var pipelined: CircularBuffer<HTTPServerRequestPart> = []
    /// A framing fault found while a reply is still under way: told after it.
    private var pendingRefusal: RequestRefusal?
    private var isReadPaused = false
    private var isServingPipelined = false
    /// The last reply may wait for its client to take it.
    private var hasUnsentReply = false
    private var served = 0
    private var servedInTurn = 0
    private static let maxServedInTurn = 16
    /// What came at once goes on in the next turn: it waits for no answer.
    private var isYielding = false
    private var drainStart: MonotonicTime?
    /// Body bytes of the present request, counted against all connections' bound.
    private var reserved = 0
    private static let drainGrace: Duration = .seconds(1)
    /// Bytes of a refused request's body that are read, to serve the next request on the connection.
    private static let maxSkippedBody = 64 << 10
    /// Heads, pieces of bodies and ends that wait behind a request that is being answered. Parsed, small ones take twenty
    /// times their bytes.
    private static let maxPipelinedParts = 256
    private var mustClose = false

    /// Raw bytes since the last request was complete, to see bytes that never become one.
    private var rawBytes = 0
    private var phaseStart: MonotonicTime
    private var lastBodyByte: MonotonicTime
    /// Whether the parser has the whole of each request that it began.
    private var isBetweenRequests = true
    /// Whether it has begun another head since.
    private var hasPartialHead = false
    /// The last bytes of the body that it is in, or was in last.
    private var bodyEnd: BytesEnd?
    private var written = 0
    private var lastDrained = 0
    private var lastSent: MonotonicTime
    private var lastDrain: MonotonicTime
    private var nextStallCheck: MonotonicTime

    init(gateway: Gateway, loop: LoopContext, routes: Routes, client: ClientID, address: String) {
        self.gateway = gateway
        self.loop = loop
        self.routes = routes
        self.client = client
        clientAddress = address
        snapshot = gateway.snapshot
        let now = MonotonicTime.now
        phaseStart = now
        lastBodyByte = now
        lastDrain = now
        nextStallCheck = now
        lastSent = now
    }

    private var limits: ServerConfiguration { snapshot.configuration.server }

    // MARK: The channel's events

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
        channel = context.channel
        socket = ClientSocket(context.channel)
        loop.add(self)
    }

    func handlerRemoved(context: ChannelHandlerContext) { close() }

    func channelInactive(context: ChannelHandlerContext) {
        close()
        context.fireChannelInactive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let part = unwrapInboundIn(data)
        switch part {
        case .head: (isBetweenRequests, hasPartialHead, bodyEnd) = (false, false, nil)
        case .body(let bytes): bodyEnd = BytesEnd(bytes)
        case .end: isBetweenRequests = true
        }
        switch state {
        case .replying, .answered:
            guard pendingRefusal == nil else { return }
            keep(part)
            if pipelined.count > Self.maxPipelinedParts, !isYielding {
                refuse(RequestRefusal(429, "Too many requests were sent ahead of their answers; send fewer at once"))
            }
        case .closed: break
        case .idle, .receiving: receive(part)
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        if !isYielding { servedInTurn = 0 }
        context.fireChannelReadComplete()
    }

    /// A body in many small chunks is one part: those are bounded by their bytes.
    private func keep(_ part: HTTPServerRequestPart) {
        guard case .body(let bytes) = part, case .body(var body)? = pipelined.last else {
            pipelined.append(part)
            return
        }
        pipelined.removeLast()  // so that it grows in place
        body.writeImmutableBuffer(bytes)
        pipelined.append(.body(body))
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        switch error {
        case let fault as HTTPParserError: refuse(RequestRefusal(fault))
        case ByteToMessageDecoderError.dataReceivedInErrorState: break  // comes after a fault that is told already
        default: context.close(promise: nil)  // the socket itself failed: the client is gone
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable {
            if case .answered = state {
                if !isYielding { serveNext() }
            } else {
                exchange?.onEventLoop { $0.clientReads() }
            }
        }
        context.fireChannelWritabilityChanged()
    }

    /// Called by ``ByteMeter`` with each piece the socket gave, before the parser sees it.
    func noteRawBytes(_ piece: ByteBuffer) {
        rawBytes += piece.readableBytes
        lingering?.lastInput = .now
        guard isBetweenRequests, !hasPartialHead else { return }
        if isBetweenLines(piece) { return }
        hasPartialHead = true
        if case .idle = state { phaseStart = .now }
    }

    /// Line ends after a request belong to nothing (RFC 9112 section 2.2).
    private func isBetweenLines(_ piece: ByteBuffer) -> Bool { served > 0 && piece.withoutLastLineEnds.isEmpty }

    /// Called by ``ByteMeter`` when the parser is done with a piece: bytes that add up to no request are refused.
    func checkRawBytes(_ piece: ByteBuffer) {
        // The parser does not tell whether it holds the begin of another head. A request ends with an empty line, or with
        // its body.
        if isBetweenRequests, !hasPartialHead, !isBetweenLines(piece), !piece.endsWithEmptyLine,
            bodyEnd?.isEnd(of: piece) != true
        {
            hasPartialHead = true
        }
        switch state {
        case .idle where rawBytes > limits.maxHead + 16 << 10:
            refuse(RequestRefusal(431, "Request headers exceed \(limits.maxHead) bytes"))
        case .receiving(_, .answered, _) where rawBytes > Self.maxSkippedBody: answerBeforeItsEnd()
        case .receiving(_, .accepted, let body) where rawBytes > 16 * body.readableBytes + limits.maxHead + 16 << 10:
            refuse(RequestRefusal(400, "The chunked encoding carries far more than its data"))
        case .replying where rawBytes > 64 << 10, .answered where rawBytes > 64 << 10:
            pauseReading()
        default: break
        }
    }

    // MARK: Receiving

    private func receive(_ part: HTTPServerRequestPart) {
        switch part {
        case .head(let head): receiveHead(head)
        case .body(let bytes): receiveBody(bytes)
        case .end: receiveEnd()
        }
    }

    private func receiveHead(_ head: HTTPRequestHead) {
        snapshot = gateway.snapshot
        phaseStart = .now
        lastBodyByte = phaseStart
        let request: Shared<RequestHead>
        do throws(RequestRefusal) {
            request = Shared(try RequestHead(head, maxHead: limits.maxHead))
        } catch {
            refuse(error, Shared(RequestHead(refused: head)), method: head.method.rawValue, route: "none")
            return
        }
        do throws(RequestRefusal) {
            let verdict = routes.judge(request, snapshot)
            state = .receiving(request, verdict, body: ByteBuffer())
            if let length = request.contentLength, length > limits.maxBody { throw .bodyTooLarge(limits.maxBody) }
            guard request.hasBody else { return }
            switch verdict {
            case .answered:
                let length = request.contentLength ?? 0
                if request.expectsContinue || length > Self.maxSkippedBody { answerBeforeItsEnd() }
            case .accepted:
                if request.expectsContinue { send { $0.writeStaticString("HTTP/1.1 100 Continue\r\n\r\n") } }
            }
        } catch {
            refuse(error)
        }
    }

    private func receiveBody(_ bytes: ByteBuffer) {
        guard case .receiving(let request, let verdict, var body) = state else { return }
        lastBodyByte = .now
        if case .answered = verdict { return }
        guard body.readableBytes + bytes.readableBytes <= limits.maxBody else {
            refuse(.bodyTooLarge(limits.maxBody))
            return
        }
        guard gateway.reserve(bytes.readableBytes, of: limits.maxBodyMemory) else {
            refuse(RequestRefusal(503, "The gateway is busy; try again later", retryAfter: 1))
            return
        }
        reserved += bytes.readableBytes
        state = .idle  // releases the buffer, so that it grows in place
        if body.readableBytes == 0 { body = bytes } else { body.writeImmutableBuffer(bytes) }
        state = .receiving(request, verdict, body: body)
    }

    /// The body of a refused request is not worth waiting for.
    private func answerBeforeItsEnd() {
        mustClose = true
        receiveEnd()
    }

    private func receiveEnd() {
        guard case .receiving(let request, let verdict, let body) = state else { return }
        if pipelined.isEmpty { rawBytes = 0 }  // else those that wait are among them
        served += 1
        if !request.keepAlive || served >= limits.maxRequestsPerConnection || gateway.isDraining { mustClose = true }
        state = .replying(request, streaming: nil)
        written = 0
        lastDrained = 0
        lastDrain = .now
        lastSent = .now
        routes.handle(request, verdict, body: body, gateway: gateway, connection: self, loop: loop)
    }

    /// Answers a request that cannot be understood or taken, once, and closes.
    private func refuse(_ refusal: RequestRefusal) {
        switch state {
        case .replying, .answered: pendingRefusal = pendingRefusal ?? refusal
        case .closed: break
        case .idle: refuse(refusal, RequestHead.unreadable, method: "", route: "none")
        case .receiving(let request, let verdict, _):
            refuse(refusal, request, method: request.method.rawValue, route: verdict.routeName)
        }
    }

    private func refuse(
        _ refusal: RequestRefusal, _ request: Shared<RequestHead>, method: String, route: String
    ) {
        mustClose = true
        state = .replying(request, streaming: nil)
        if refusal.status == 431 { gateway.limits.note(.head) }
        if refusal.status == 413 { gateway.limits.note(.body) }
        let id = request.requestID ?? loop.makeRequestID()
        gateway.finished(
            AccessRecord(
                requestID: id, client: clientAddress, route: route, method: method, status: refusal.status,
                outcome: .refused, duration: .now - phaseStart), snapshot.configuration.log)
        var answer = Reply(refusal)
        answer.head.requestID = id
        reply(answer)
    }

    // MARK: Replying

    /// Whether the client takes bytes as fast as they come.
    var isWritable: Bool { unsentWrites == 0 ? context != nil : channel?.isWritable ?? false }

    /// The exchange that answers the present request; told when the client leaves or reads again.
    func attach(_ exchange: Exchange) { self.exchange = exchange }

    func attach(_ feed: DashboardFeed) { self.feed = feed }

    /// Sends a whole reply and goes on to the next request.
    func reply(_ reply: Reply) {
        guard case .replying(let request, streaming: nil) = state else { return }
        let connection = connectionField(request)
        send { output in
            output.writeHead(
                reply.head, framing: .length(reply.body.readableBytes), connection: connection,
                date: loop.httpDate(.now))
            if request.method != .HEAD { output.writeImmutableBuffer(reply.body) }
        }
        finish()
    }

    /// A drain is told with the next head, even before this connection hears of it. A client of HTTP/1.0 sends another
    /// request only where it is told that it may (RFC 9112 appendix C.2.2).
    private func connectionField(_ request: Shared<RequestHead>) -> StaticString? {
        if gateway.isDraining { mustClose = true }
        return mustClose ? "close" : request.isHTTP10 ? "keep-alive" : nil
    }

    /// Sends the head of a streamed reply together with its first piece; to HEAD it is the whole reply.
    func startStream(_ head: ReplyHead, first: ByteBuffer) {
        guard case .replying(let request, streaming: nil) = state else { return }
        let framing: ReplyFraming = request.isHTTP10 ? .close : .chunked
        if request.isHTTP10 { mustClose = true }
        state = .replying(request, streaming: framing)
        let connection = connectionField(request)
        send { output in
            output.writeHead(head, framing: framing, connection: connection, date: loop.httpDate(.now))
            if request.method != .HEAD { append(first, framing, to: &output) }
        }
        if request.method == .HEAD { finish() }
    }

    /// Sends what `write` puts together as a piece of a streamed reply.
    func stream(_ write: (inout ByteBuffer) -> Void) {
        guard case .replying(_, streaming: let framing?) = state else { return }
        switch framing {
        case .chunked: send { $0.becomeChunk(write) }
        case .length, .close: send(write)
        }
    }

    func endStream(last: ByteBuffer) {
        guard case .replying(_, streaming: let framing?) = state else { return }
        send { output in
            append(last, framing, to: &output)
            if case .chunked = framing { output.writeStaticString("0\r\n\r\n") }
        }
        finish()
    }

    private func append(_ piece: ByteBuffer, _ framing: ReplyFraming, to output: inout ByteBuffer) {
        if case .chunked = framing { output.writeChunk(piece) } else { output.writeImmutableBuffer(piece) }
    }

    /// Sends what `write` puts into an empty buffer. What the socket takes at once goes neither through the pipeline nor
    /// into memory of its own: of a thousand connections, none finds its handlers and queues in the processor's cache.
    private func send(_ write: (inout ByteBuffer) -> Void) {
        guard let context, let socket else { return }
        let rest: ByteBuffer? = loop.withOutput { output in
            write(&output)
            written += output.readableBytes
            if unsentWrites == 0 { output.moveReaderIndex(forwardBy: socket.send(output)) }
            // A copy as large as it is: a slice would keep all that the buffer ever had to hold.
            return output.readableBytes == 0 ? nil : ByteBuffer(bytes: output.readableBytesView)
        }
        lastSent = .now
        guard let rest else { return }
        unsentWrites += 1
        let isSent = context.eventLoop.makePromise(of: Void.self)
        isSent.futureResult.assumeIsolated().whenSuccess { self.unsentWrites -= 1 }
        context.writeAndFlush(wrapOutboundOut(rest), promise: isSent)
    }

    /// The reply is complete: next request, or close.
    private func finish() {
        guard context != nil else { return }  // the connection died of its write, and is closed
        exchange = nil
        feed = nil
        releaseBody()
        if mustClose {
            state = .closed
            pipelined.removeAll()
            lingeringClose()
            return
        }
        hasUnsentReply = true
        servedInTurn += 1
        if !isWritable {
            state = .answered
        } else if servedInTurn < Self.maxServedInTurn {
            serveNext()
        } else {
            goOnInNextTurn()
        }
    }

    /// A thousand requests may have come at once: other connections have their turn before they go on.
    private func goOnInNextTurn() {
        state = .answered
        isYielding = true
        // A task without a delay would run before the loop looks at its sockets again.
        _ = context?.eventLoop.assumeIsolated().scheduleTask(in: .microseconds(50)) {
            self.isYielding = false
            self.servedInTurn = 0
            if case .answered = self.state, self.isWritable { self.serveNext() }
        }
    }

    /// Takes what was sent ahead, until a request among it has to be waited for, or its client has to read.
    private func serveNext() {
        state = .idle
        phaseStart = .now
        // A request that is answered at once comes back here: the loop that is under way goes on with the next.
        guard !isServingPipelined else { return }
        isServingPipelined = true
        defer { isServingPipelined = false }
        serving: while let part = pipelined.popFirst() {
            receive(part)
            switch state {
            case .replying, .answered, .closed: break serving
            case .idle, .receiving: continue
            }
        }
        guard pipelined.isEmpty else { return }
        if let refusal = pendingRefusal {
            pendingRefusal = nil
            refuse(refusal)
        } else {
            resumeReading()
        }
    }

    /// Half-closes when the reply is on its way, and reads on until its client has it: closing with unread input, or input
    /// that comes later, would reset the connection and with it what the client has yet to read (RFC 9112 section 9.6).
    private func lingeringClose() {
        guard let context, let channel else { return }
        resumeReading()
        let isSent = context.eventLoop.makePromise(of: Void.self)
        isSent.futureResult.assumeIsolated().whenComplete { _ in self.lingering = Lingering(since: .now) }
        context.flush()
        channel.close(mode: .output, promise: isSent)
    }

    /// Closes where the client has all and is silent, or takes nothing, or sends for too long. Its own close comes sooner,
    /// as a rule.
    private func checkLingering(_ now: MonotonicTime) {
        guard var lingering, let socket else { return }
        let unacknowledged = socket.unacknowledged
        if unacknowledged < lingering.unacknowledged {
            lingering.unacknowledged = unacknowledged
            lingering.lastProgress = now
        }
        if unacknowledged > 0 { lingering.since = now }
        self.lingering = lingering
        let standstill = now - lingering.lastProgress
        if unacknowledged == 0 {
            let quiet = now - max(lingering.lastInput, lingering.since)
            if quiet >= Self.lingerQuiet || now - lingering.since >= Self.lingerMost { context?.close(promise: nil) }
        } else if standstill >= limits.clientStallTimeout {
            closeStalled(since: lingering.lastProgress, now)
        } else if drainStart != nil, standstill >= Self.lingerQuiet, now - lingering.lastInput >= Self.lingerQuiet {
            context?.close(promise: nil)  // the system goes on sending what it has; a stop does not wait for that
        }
    }

    private func closeStalled(since start: MonotonicTime, _ now: MonotonicTime) {
        gateway.limits.note(.clientStall)
        gateway.logTimer("client_stall", of: limits.clientStallTimeout, now - start, requestID: nil)
        context?.close(promise: nil)
    }

    /// The connection is gone, or must go now: whatever runs for it is stopped.
    private func close() {
        guard context != nil else { return }
        context = nil
        channel = nil
        socket = nil
        state = .closed
        pipelined.removeAll()
        loop.remove(self)
        releaseBody()
        gateway.connectionClosed(client, of: routes.audience)
        exchange?.onEventLoop { $0.abandon(.clientLeft) }
        exchange = nil
        feed?.stop()
        feed = nil
    }

    private func releaseBody() {
        gateway.release(reserved)
        reserved = 0
    }

    private func pauseReading() {
        guard !isReadPaused else { return }
        isReadPaused = true
        _ = channel?.setOption(.autoRead, value: false)
    }

    private func resumeReading() {
        rawBytes = 0
        guard isReadPaused else { return }
        isReadPaused = false
        _ = channel?.setOption(.autoRead, value: true)
    }

    // MARK: Timers

    func tick(_ now: MonotonicTime) {
        switch state {
        case .idle:
            if isReplyOnItsWay(now) { return }
            if let drainStart, !hasPartialHead, now - drainStart >= Self.drainGrace {
                context?.close(promise: nil)
            } else if hasPartialHead || served == 0 {
                guard now - phaseStart >= limits.headTimeout else { return }
                if hasPartialHead {
                    refuse(
                        RequestRefusal(
                            408, "The request head did not arrive within \(DurationText.format(limits.headTimeout))"))
                } else {
                    context?.close(promise: nil)
                }
            } else if now - phaseStart >= limits.keepAliveTimeout {
                context?.close(promise: nil)
            }
        case .receiving:
            if now - lastBodyByte >= limits.bodyIdleTimeout {
                let limit = DurationText.format(limits.bodyIdleTimeout)
                refuse(RequestRefusal(408, "Nothing more of the request body arrived for \(limit)"))
            } else if now - phaseStart >= limits.bodyTimeout {
                let limit = DurationText.format(limits.bodyTimeout)
                refuse(RequestRefusal(408, "The request body did not arrive within \(limit)"))
            }
        case .replying:
            checkStall(now)
            if let heartbeat = limits.heartbeat, now - lastSent >= heartbeat {
                lastSent = now
                exchange?.onEventLoop { $0.heartbeat() }
            }
        case .answered: checkStall(now)
        case .closed: if lingering == nil { checkStall(now) } else { checkLingering(now) }
        }
    }

    /// Whether the client has yet to take a part of the last reply. Its time as an idle connection begins after that.
    private func isReplyOnItsWay(_ now: MonotonicTime) -> Bool {
        guard hasUnsentReply else { return false }
        if let waiting = try? channel?.syncOptions?.getOption(.bufferedWritableBytes), waiting > 0 {
            checkStall(now)
            return true
        }
        hasUnsentReply = false
        phaseStart = now
        if drainStart != nil { drainStart = now }
        return false
    }

    /// A client that takes no byte of what waits for it is cut off. Looked at only so often: asking costs more than all
    /// other timers.
    private func checkStall(_ now: MonotonicTime) {
        guard now >= nextStallCheck else { return }
        nextStallCheck = now + min(.seconds(1), limits.clientStallTimeout / 8)
        guard let options = channel?.syncOptions, let waiting = try? options.getOption(.bufferedWritableBytes) else {
            return
        }
        let drained = written - waiting
        if waiting == 0 || drained != lastDrained {
            lastDrained = drained
            lastDrain = now
        } else if now - lastDrain >= limits.clientStallTimeout {
            closeStalled(since: lastDrain, now)
        }
    }

    /// The gateway stops: connections close after their next reply, and those that stay idle after a moment of grace. A
    /// client that is about to send its next request must not find the connection closed under it.
    func drain() {
        mustClose = true
        drainStart = .now
        feed?.end()
    }

    /// The drain time is over.
    func endNow() {
        if case .receiving = state {
            refuse(RequestRefusal(503, "The gateway is stopping", retryAfter: 1))
        } else {
            exchange?.onEventLoop { $0.abandon(.drain) }
        }
    }
}

/// Counts the bytes that come from the socket, in front of the parser.
final class ByteMeter: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    private let connection: HTTPConnection

    init(_ connection: HTTPConnection) { self.connection = connection }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let piece = unwrapInboundIn(data)
        connection.noteRawBytes(piece)
        context.fireChannelRead(data)
        connection.checkRawBytes(piece)
    }
}

/// The last bytes of a buffer before its last line ends, at most eight, to be found again without keeping the buffer.
private struct BytesEnd: Equatable {
    private var count: Int
    private var bytes: UInt64 = 0

    init(_ buffer: ByteBuffer, atMost most: Int = 8) {
        let last = buffer.withoutLastLineEnds.suffix(most)
        count = last.count
        for byte in last { bytes = bytes << 8 | UInt64(byte) }
    }

    func isEnd(of buffer: ByteBuffer) -> Bool { self == BytesEnd(buffer, atMost: count) }
}

extension ByteBuffer {
    fileprivate var withoutLastLineEnds: ByteBufferView {
        var rest = readableBytesView
        while let last = rest.last, last == 0x0A || last == 0x0D { rest.removeLast() }
        return rest
    }

    /// Where it has nothing before its line end, the empty line may have begun in the piece before.
    fileprivate var endsWithEmptyLine: Bool {
        guard readableBytesView.last == 0x0A else { return false }
        var rest = readableBytesView.dropLast()
        if rest.last == 0x0D { rest = rest.dropLast() }
        return rest.isEmpty || rest.last == 0x0A
    }
}
