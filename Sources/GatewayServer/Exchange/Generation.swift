import CurlMulti
import GatewayCore
import GatewayWire
import NIOCore

/// One prompt on its way to an answer: admit, plan, attempt, commit, stream, settle.
///
/// It lives on its client's event loop: every function runs there, so its state needs no lock.
actor Generation {
    /// Receives the pieces of the answer as they come; called on the event loop.
    typealias PieceHandler = @Sendable (String) -> Void

    private enum Signal {
        case attemptEnded(Followed)
        case granted(Choice)
        case timer(FiredTimer)
        case abandoned(AbandonReason)
    }

    private enum FiredTimer { case queue, firstToken, idle, total }

    /// How an attempt ended.
    private struct Followed {
        var outcome: AttemptOutcome
        var usage = TokenUsage()
        /// The transfer is over, or its reply whole: nothing is left to cancel.
        var hasEnded: Bool
    }

    /// What has come of the running attempt's reply. A class: it is changed in place for each token.
    private final class AttemptReply {
        var decoder: UpstreamReplyDecoder
        let idleTimeout: Duration
        var head: ResponseHead?
        var status = 0
        var errorBody: [UInt8] = []

        init(_ kind: UpstreamKind, idleTimeout: Duration) {
            decoder = UpstreamReplyDecoder(kind: kind)
            self.idleTimeout = idleTimeout
        }
    }

    private let gateway: Gateway
    private let loop: NIOLoopBound<LoopContext>
    private let eventLoop: any EventLoop
    private let executor: EventLoopExecutor
    private let chat: ChatRequest
    private let modelID: String
    private let isBatchItem: Bool
    private let onPiece: PieceHandler?
    private let waiter: WaiterID

    private var inbox: CircularBuffer<Signal> = []
    private var continuation: UnsafeContinuation<Void, Never>?
    private var abandonReason: AbandonReason?
    private var transfer: Transfer?
    private var attempt = 0
    private var reply: AttemptReply?
    private var events: [UpstreamEvent] = []
    private var trace = GenerationTrace()
    private var text = ""

    private let totalDeadline: MonotonicTime
    private var queueDeadline: MonotonicTime?
    private var firstTokenDeadline: MonotonicTime?
    private var idleTimeout: Duration?
    private var lastObject = MonotonicTime(nanoseconds: 0)
    /// Bytes of the transfer that are not acknowledged yet: held back while the client does not read.
    private var unacknowledged = 0
    private var isClientReading = true

    /// Longest answer, in bytes.
    private static let maxText = 16 << 20
    /// Longest error body that is looked at, in bytes.
    private static let maxErrorBody = 64 << 10
    /// Few enough acknowledgements to cost nothing, often enough to keep the transfer flowing.
    private static let acknowledgeAfter = 64 << 10

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    init(
        gateway: Gateway, loop: NIOLoopBound<LoopContext>, chat: ChatRequest, modelID: String, accepted: MonotonicTime,
        isBatchItem: Bool = false, onPiece: PieceHandler? = nil
    ) {
        self.gateway = gateway
        self.loop = loop
        eventLoop = loop.value.eventLoop
        executor = loop.value.executor
        self.chat = chat
        self.modelID = modelID
        self.isBatchItem = isBatchItem
        self.onPiece = onPiece
        waiter = gateway.makeWaiterID()
        totalDeadline = accepted + gateway.configuration.server.totalTimeout
    }

    // MARK: The life of a generation

    func run() async -> GenerationResult {
        loop.value.add(self)
        defer { loop.value.remove(self) }
        var tried = TriedUpstreams()
        while true {
            let choice: Choice
            switch await admit(tried) {
            case .success(let admitted): choice = admitted
            case .failure(let end): return finish(end)
            }
            tried.insert(choice.upstream)
            let started = MonotonicTime.now
            var (outcome, usage) = await runAttempt(choice)
            if case .failed(.staleConnection) = outcome, abandonReason == nil {
                // Nothing was sent: once more, on a connection that is new.
                trace.end(outcome)
                (outcome, usage) = await runAttempt(choice)
            }
            let ended = MonotonicTime.now
            let decision = settle(choice, outcome, started: started, ended: ended)
            switch outcome {
            case .success:
                trace.inferenceTime = ended - started
                return finish(.answered(usage))
            case .abandoned(let reason):
                return finish(.abandoned(reason))
            case .failed(let failure):
                trace.lastFailure = failure
                if isCommitted { return finish(.cutOff(failure)) }
                text = ""
                if !decision.next { return finish(.failed) }
            }
        }
    }

    /// So far, the running one included.
    var attempts: [GenerationTrace.Attempt] { trace.attempts }

    private var isCommitted: Bool { onPiece != nil && !text.isEmpty }

    private func finish(_ end: GenerationResult.End) -> GenerationResult {
        GenerationResult(end: end, text: text, trace: trace)
    }

    private enum Admission {
        case success(Choice)
        case failure(GenerationResult.End)
    }

    /// Admit and plan: a slot at the best upstream, at once or after waiting in the queue.
    private func admit(_ tried: TriedUpstreams) async -> Admission {
        if let reason = abandonReason { return .failure(.abandoned(reason)) }
        let request = SelectionRequest(waiter: waiter, tried: tried, isBatchItem: isBatchItem)
        switch gateway.select(request, for: self) {
        case .attempt(let choice): return .success(choice)
        case .exhausted: return .failure(.failed)
        case .refuse(let retryAfter): return .failure(.overloaded(retryAfter: retryAfter))
        case .wait(_, let deadline):
            let started = MonotonicTime.now
            queueDeadline = deadline
            defer {
                queueDeadline = nil
                trace.queueTime += MonotonicTime.now - started
            }
            while true {
                switch await next() {
                case .granted(let choice):
                    return .success(choice)
                case .timer(.queue):
                    gateway.leaveQueue(waiter)
                    return .failure(.overloaded(retryAfter: 1))
                case .timer:
                    gateway.leaveQueue(waiter)
                    return .failure(.abandoned(.totalDeadline))
                case .abandoned(let reason):
                    gateway.leaveQueue(waiter)
                    return .failure(.abandoned(reason))
                case .attemptEnded: break  // of an earlier attempt
                }
            }
        }
    }

    /// One upstream, under its timers.
    private func runAttempt(_ choice: Choice) async -> (AttemptOutcome, TokenUsage) {
        let endpoint = gateway.endpoints[choice.upstream.index]
        let kind = endpoint.configuration.kind
        let model = gateway.models.model(for: modelID, on: choice.upstream)
        let body = UpstreamRequestWriter.body(chat, kind: kind, model: model)
            .withUnsafeReadableBytes { RequestBody(copying: $0) }
        attempt += 1
        unacknowledged = 0
        let timeouts = endpoint.configuration.timeouts
        firstTokenDeadline = .now + timeouts.firstToken
        idleTimeout = nil
        reply = AttemptReply(kind, idleTimeout: timeouts.idle)
        let receiver = AttemptReceiver(generation: self, attempt: attempt)
        let transfer = gateway.engine.start(
            TransferRequest(
                method: .post, target: endpoint.target, headers: endpoint.postHeaders, body: body,
                timers: TransferTimers(
                    connect: timeouts.connect, total: gateway.configuration.server.totalTimeout + .seconds(1))),
            receiver: receiver, on: loop.value.delivery)
        self.transfer = transfer
        trace.begin(endpoint.configuration.name)
        let result = await follow()
        reply = nil
        if !result.hasEnded { transfer.cancel() }
        self.transfer = nil
        firstTokenDeadline = nil
        idleTimeout = nil
        return (result.outcome, result.usage)
    }

    /// Waits for the attempt's end; its events are handled as they come, by ``receive(attempt:_:)``.
    private func follow() async -> Followed {
        while true {
            switch await next() {
            case .attemptEnded(let followed): return followed
            case .timer(.firstToken): return Followed(outcome: .failed(.firstTokenTimer), hasEnded: false)
            case .timer(.idle): return Followed(outcome: .failed(.idleTimer), hasEnded: false)
            case .timer(.total): return Followed(outcome: .abandoned(.totalDeadline), hasEnded: false)
            case .abandoned(let reason): return Followed(outcome: .abandoned(reason), hasEnded: false)
            case .granted, .timer(.queue): break  // what the queue left behind
            }
        }
    }

    /// An event of an attempt's transfer. Handled here and now, without waking the task: a stream has one for each
    /// token. What comes after the attempt's end is let go.
    func receive(attempt: Int, _ event: TransferEvent) {
        guard attempt == self.attempt, let reply, let followed = handle(event, reply) else { return }
        self.reply = nil
        post(.attemptEnded(followed))
    }

    /// - Returns: the attempt's end, where the event was it.
    private func handle(_ event: TransferEvent, _ reply: AttemptReply) -> Followed? {
        switch event {
        case .head(let head):
            reply.head = head
            reply.status = head.status
            return nil
        case .body(let bytes):
            if reply.status == 200 {
                reply.decoder.feed(bytes, parser: loop.value.parser, into: &events)
                if let followed = handleEvents() { return followed }
            } else {
                reply.errorBody.append(contentsOf: bytes.prefix(Self.maxErrorBody - reply.errorBody.count))
            }
            acknowledge(bytes.count)
            return nil
        case .end(let result):
            trace.connectTime = result.connectTime
            if let failure = result.failure { return Followed(outcome: Self.outcome(of: failure), hasEnded: true) }
            guard reply.status == 200 else {
                let failure = UpstreamErrorReader.classify(
                    status: reply.status, retryAfter: reply.head?.retryAfter, body: reply.errorBody,
                    parser: loop.value.parser)
                return Followed(outcome: .failed(failure), hasEnded: true)
            }
            reply.decoder.end(parser: loop.value.parser, into: &events)
            return handleEvents() ?? Followed(outcome: .failed(.reply(.truncated)), hasEnded: true)
        }
    }

    /// - Returns: the attempt's end, where an event was one.
    private func handleEvents() -> Followed? {
        guard !events.isEmpty else { return nil }
        defer { events.removeAll(keepingCapacity: true) }
        lastObject = .now
        for event in events {
            switch event {
            case .content(let piece):
                noteFirstToken()
                guard text.utf8.count + piece.utf8.count <= Self.maxText else {
                    return Followed(outcome: .failed(.reply(.lineTooLong)), hasEnded: false)
                }
                text += piece
                onPiece?(piece)
            case .thinking: noteFirstToken()
            case .progress: break
            case .finished(let usage):
                // The rest of the transfer is only its end; left alone, its connection can be used again.
                return Followed(outcome: .success, usage: usage, hasEnded: true)
            case .failed(let fault): return Followed(outcome: .failed(.reply(fault)), hasEnded: false)
            }
        }
        return nil
    }

    private func noteFirstToken() {
        guard firstTokenDeadline != nil else { return }
        firstTokenDeadline = nil
        idleTimeout = reply?.idleTimeout
        trace.firstToken()
    }

    private static func outcome(of failure: TransferFailure) -> AttemptOutcome {
        switch failure.reason {
        case .cancelled: .abandoned(.drain)
        case .totalTimer: .abandoned(.totalDeadline)
        case .resolve: .failed(.resolve)
        case .connect: .failed(.connect)
        case .connectTimer: .failed(.connectTimer)
        case .tls: .failed(.tls)
        case .staleConnection: .failed(.staleConnection)
        case .noReply: .failed(.noReply)
        case .firstByteTimer: .failed(.firstTokenTimer)
        case .idleTimer: .failed(.idleTimer)
        case .headTooLarge, .protocolError, .cut, .engine: .failed(.protocolError)
        }
    }

    /// Tells the table, and the log where an operator should know.
    private func settle(
        _ choice: Choice, _ outcome: AttemptOutcome, started: MonotonicTime, ended: MonotonicTime
    ) -> FallbackDecision {
        let upstream = gateway.endpoints[choice.upstream.index].configuration
        var decision = FallbackDecision()
        if case .failed(let failure) = outcome {
            decision = FallbackPolicy.decide(
                failure, kind: upstream.kind, idempotent: upstream.idempotent, committed: isCommitted)
            gateway.logFailure(failure, upstream: upstream, elapsed: ended - started, decision)
        }
        trace.end(outcome)
        gateway.settle(choice.upstream, rest: decision.rest, heldFor: ended - started)
        return decision
    }

    // MARK: Signals

    private func next() async -> Signal {
        while true {
            if let signal = inbox.popFirst() { return signal }
            await withUnsafeContinuation { continuation = $0 }
        }
    }

    private func post(_ signal: Signal) {
        inbox.append(signal)
        guard let waiting = continuation else { return }
        continuation = nil
        waiting.resume()
    }

    /// From any thread: the slot that was waited for is there.
    nonisolated func grant(_ choice: Choice) {
        eventLoop.execute { self.assumeIsolated { $0.takeGrant(choice) } }
    }

    private func takeGrant(_ choice: Choice) {
        if abandonReason != nil {
            // It left while the grant was on its way: the slot goes on to the next.
            gateway.settle(choice.upstream, rest: nil, heldFor: .zero)
        } else {
            post(.granted(choice))
        }
    }

    /// The client left, or the gateway must stop: ends in whatever phase it is.
    func abandon(_ reason: AbandonReason) {
        guard abandonReason == nil else { return }
        abandonReason = reason
        transfer?.cancel()
        post(.abandoned(reason))
    }

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

    func tick(_ now: MonotonicTime) {
        if now >= totalDeadline {
            if abandonReason == nil {
                abandonReason = .totalDeadline
                post(.timer(.total))
            }
        } else if let deadline = queueDeadline, now >= deadline {
            queueDeadline = nil
            post(.timer(.queue))
        } else if let deadline = firstTokenDeadline, now >= deadline {
            firstTokenDeadline = nil
            post(.timer(.firstToken))
        } else if let timeout = idleTimeout {
            if !isClientReading {
                lastObject = now  // the silence is of our own making
            } else if now - lastObject >= timeout {
                idleTimeout = nil
                post(.timer(.idle))
            }
        }
    }
}

/// Ties the events of one attempt's transfer to it: an earlier attempt may still have some on their way.
private final class AttemptReceiver: TransferReceiver {
    private let generation: Generation
    private let attempt: Int

    init(generation: Generation, attempt: Int) {
        self.generation = generation
        self.attempt = attempt
    }

    func receive(_ event: TransferEvent) {
        generation.assumeIsolated { $0.receive(attempt: attempt, event) }
    }
}
