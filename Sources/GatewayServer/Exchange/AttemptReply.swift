import CurlMulti
import GatewayCore
import GatewayWire
import NIOCore

/// What comes of one attempt's transfer. Tokens are taken in where they arrive, and go on to the client without waking the
/// generation: a stream has dozens of them a second. It never leaves its event loop.
final class AttemptReply {
    private let generation: Generation
    private let metrics: Metrics
    private let parser: JSONParser
    private let onPieces: Generation.PiecesHandler?
    private let idleTimeout: Duration

    /// Nil before the request is on its way, and when nothing is to be had of the transfer any more.
    var transfer: Transfer?
    private var decoder: UpstreamReplyDecoder
    private var head: ResponseHead?
    private var status = 0
    private var errorBody: [UInt8] = []
    private var events: [UpstreamEvent] = []
    /// Of the events at hand: they go to the client in one write.
    private var newPieces: [String] = []
    private var departure: Departure?

    private(set) var text = ""
    /// Pieces of text so far, about one a token.
    private(set) var pieces = 0
    private(set) var hasFirstToken = false
    private(set) var connectTime: Duration?
    /// The attempt has ended: what else comes is let go.
    private(set) var isOver = false
    /// The transfer has told its end.
    private(set) var isTransferOver = false

    private var lastObject = MonotonicTime.now
    /// The idle timer has fired, and nothing has come since.
    private(set) var isIdle = false
    /// Bytes of the transfer that are not acknowledged yet: held back while the client does not read.
    private var unacknowledged = 0
    private var isClientReading = true

    /// Longest answer, in bytes.
    private static let maxText = 16 << 20
    /// Longest error body that is looked at, in bytes.
    private static let maxErrorBody = 64 << 10
    /// Few enough acknowledgements to cost nothing, often enough to keep the transfer flowing.
    private static let acknowledgeAfter = 64 << 10

    init(
        of generation: Generation, _ upstream: UpstreamConfiguration, metrics: Metrics, parser: JSONParser,
        onPieces: Generation.PiecesHandler?
    ) {
        self.generation = generation
        self.metrics = metrics
        self.parser = parser
        self.onPieces = onPieces
        idleTimeout = upstream.timeouts.idle
        decoder = UpstreamReplyDecoder(kind: upstream.kind)
    }

    // MARK: What the transfer brings

    func receive(_ update: TransferUpdate) {
        if update.end != nil { isTransferOver = true }
        if let departure { return note(update, after: departure) }
        guard !isOver, let end = handle(update) else { return }
        isOver = true
        generation.executor.runHere { generation.onEventLoop { $0.attemptEnded(end) } }
    }

    /// - Returns: the attempt's end, where this was it.
    private func handle(_ update: TransferUpdate) -> Generation.AttemptEnd? {
        if let head = update.head {
            self.head = head
            status = head.status
            connectTime = update.connectTime
            if status != 200, update.end == nil { generation.onEventLoop { $0.noteErrorStatus() } }
        }
        if !update.body.isEmpty {
            if status == 200 {
                decoder.feed(update.body, parser: parser, into: &events)
                if let end = handleEvents() { return end }
            } else {
                errorBody.append(contentsOf: update.body.prefix(Self.maxErrorBody - errorBody.count))
            }
            acknowledge(update.body.count)
        }
        guard let result = update.end else { return nil }
        connectTime = result.connectTime
        if let failure = result.failure {
            // A transfer that somebody of ours ended has failed by that; else a status counts for more than how it broke off.
            let outcome = AttemptOutcome(failure.reason)
            if case .failed = outcome, let statusFailure {
                return .init(outcome: .failed(statusFailure), hasEnded: true, detail: failure.detail)
            }
            return .init(outcome: outcome, hasEnded: true, detail: failure.detail)
        }
        if let statusFailure { return .init(outcome: .failed(statusFailure), hasEnded: true) }
        decoder.end(parser: parser, into: &events)
        return handleEvents() ?? .init(outcome: .failed(.reply(.truncated)), hasEnded: true)
    }

    /// What the status means, with as much of the body as has come; nil where it is 200 or has not come.
    var statusFailure: AttemptFailure? {
        guard let head, head.status != 200 else { return nil }
        return UpstreamErrorReader.classify(
            status: head.status, retryAfter: head.retryAfter, body: errorBody, now: .now, parser: parser)
    }

    /// - Returns: the attempt's end, where an event was one.
    private func handleEvents() -> Generation.AttemptEnd? {
        guard !events.isEmpty else { return nil }
        lastObject = .now
        isIdle = false
        let end = takeEvents()
        if !newPieces.isEmpty { onPieces?(newPieces) }
        // One each, as a rule, for which `removeAll(keepingCapacity:)` takes 500 instructions.
        while newPieces.popLast() != nil {}
        while events.popLast() != nil {}
        return end
    }

    /// Takes the events at hand over, up to the attempt's end, which it returns.
    private func takeEvents() -> Generation.AttemptEnd? {
        for event in events {
            switch event {
            case .content(let piece):
                noteFirstToken()
                guard text.utf8.count + piece.utf8.count <= Self.maxText else {
                    return .init(outcome: .failed(.reply(.lineTooLong)), hasEnded: false)
                }
                text += piece
                pieces += 1
                if onPieces != nil { newPieces.append(piece) }
            case .thinking: noteFirstToken()
            case .progress: break
            case .finished(let usage):
                // The rest of the transfer is only its end; left alone, its connection can be used again.
                return .init(outcome: .success, usage: usage, hasEnded: true)
            case .failed(let fault): return .init(outcome: .failed(.reply(fault)), hasEnded: false)
            }
        }
        return nil
    }

    private func noteFirstToken() {
        guard !hasFirstToken else { return }
        hasFirstToken = true
        generation.onEventLoop { $0.noteFirstToken() }
    }

    // MARK: What the generation says

    /// The attempt has ended otherwise, as by a timer.
    func end() { isOver = true }

    /// Whether the client takes bytes: while it does not, nothing is acknowledged, and the transfer pauses when its
    /// window is full.
    func setClientReading(_ isReading: Bool) {
        isClientReading = isReading
        if isReading { acknowledge(0) }
    }

    private func acknowledge(_ bytes: Int) {
        unacknowledged += bytes
        guard isClientReading, unacknowledged >= Self.acknowledgeAfter else { return }
        transfer?.acknowledge(unacknowledged)
        unacknowledged = 0
    }

    /// - Returns: whether the idle timer fires now: no object has come for so long since the last one.
    func checkIdle(_ now: MonotonicTime) -> Bool {
        guard hasFirstToken, !isOver, !isIdle else { return false }
        guard isClientReading else {
            lastObject = now  // the silence is of our own making
            return false
        }
        isIdle = now - lastObject >= idleTimeout
        return isIdle
    }

    // MARK: After the client left

    /// A client that left, and what it left behind.
    private struct Departure {
        let time: MonotonicTime
        let phase: GenerationTrace.Phase
        let upstream: String
    }

    func clientLeft(in phase: GenerationTrace.Phase, of upstream: String) {
        departure = Departure(time: .now, phase: phase, upstream: upstream)
    }

    /// The client is gone; what its transfer still brings is only counted, up to its end, when the upstream's connection
    /// is closed.
    private func note(_ update: TransferUpdate, after departure: Departure) {
        if status == 200 {
            var late: [UpstreamEvent] = []
            decoder.feed(update.body, parser: parser, into: &late)
            let pieces = late.count { if case .content = $0 { true } else { false } }
            if pieces > 0 { metrics.lateTokens(departure.upstream, pieces) }
        }
        if update.end != nil { metrics.cancelled(departure.phase, after: .now - departure.time) }
    }

    /// Where the engine brings what comes of the transfer.
    func receiver(on eventLoop: any EventLoop) -> any TransferReceiver {
        Receiver(reply: NIOLoopBound(self, eventLoop: eventLoop))
    }

    private final class Receiver: TransferReceiver {
        private let reply: NIOLoopBound<AttemptReply>
        init(reply: NIOLoopBound<AttemptReply>) { self.reply = reply }
        func receive(_ update: TransferUpdate) { reply.value.receive(update) }
    }
}
