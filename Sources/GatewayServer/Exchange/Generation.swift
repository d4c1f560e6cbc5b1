import CurlMulti
import GatewayCore
import GatewayWire
import NIOCore

/// One prompt on its way to an answer: admit, plan, attempt, commit, stream, settle.
///
/// It lives on its client's event loop: every function runs there, so its state needs no lock.
actor Generation: EventLoopActor {
    private let gateway: Gateway
    private let snapshot: Snapshot
    private let loop: NIOLoopBound<LoopContext>
    private let eventLoop: any EventLoop
    let executor: EventLoopExecutor
    private let job: Job
    private let waiter: WaiterID

    /// Seldom more than one.
    private var inbox: [Signal] = []
    private var continuation: UnsafeContinuation<Void, Never>?
    private var abandonReason: AbandonReason?
    /// Where the running attempt is.
    private var upstream: UpstreamID?
    /// What came of the last attempt whose request was sent, unless it is of no use.
    private(set) var reply: AttemptReply?
    /// A slot that comes now is taken; at any other time it goes on to the next.
    private var isInQueue = false
    private var trace = GenerationTrace()
    /// How many of the reply's pieces the time series has.
    private var countedPieces = 0

    private static let errorBodyPatience: Duration = .seconds(1)
    private let totalDeadline: MonotonicTime
    private var queueDeadline: MonotonicTime?
    private var backoffEnd: MonotonicTime?
    private var firstTokenDeadline: MonotonicTime?
    /// How long the first token may take in all.
    private var firstTokenPatience = Duration.zero

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    init(gateway: Gateway, snapshot: Snapshot, loop: NIOLoopBound<LoopContext>, job: Job) {
        self.gateway = gateway
        self.snapshot = snapshot
        self.loop = loop
        eventLoop = loop.value.eventLoop
        executor = loop.value.executor
        self.job = job
        waiter = gateway.makeWaiterID()
        totalDeadline = job.accepted + snapshot.configuration.server.totalTimeout
    }

    // MARK: The life of a generation
    // What every generation goes through is inlined: a call of an asynchronous function has a frame of its own for as long
    // as it lasts, and looks for the task's executor twice.

    /// To be called in a task that prefers the event loop's executor: else it is resumed elsewhere.
    func run() async -> GenerationResult {
        loop.value.add(self)
        defer {
            loop.value.remove(self)
            reply = nil
        }
        var request = SelectionRequest(
            waiter: waiter, client: job.client, modelID: job.modelID, isBatchItem: job.isBatchItem)
        request.pinned = job.pinned
        /// What failed, until it is known that another upstream takes over.
        var left: (upstream: String, reason: String)?
        while true {
            if request.tried.count > 1, gateway.hasAttemptLeft(request), let end = await pause(before: request) {
                return finish(end)
            }
            let choice: Choice
            switch await admit(request) {
            case .success(let admitted): choice = admitted
            case .failure(let end): return finish(end)
            }
            job.onAdmitted?(self)
            if let left { gateway.metrics.fellBack(from: left.upstream, left.reason) }
            left = nil
            trace.skipped = choice.skipped
            request.tried.insert(choice.upstream)
            let started = MonotonicTime.now
            var ended = await runAttempt(choice, request)
            if case .failed(.staleConnection) = ended.outcome, abandonReason == nil {
                // Nothing was sent: once more, on a connection that is new.
                trace.end(ended.outcome)
                ended = await runAttempt(choice, request)
            }
            let heldFor = MonotonicTime.now - started
            let decision = settle(choice, ended, heldFor: heldFor)
            switch ended.outcome {
            case .success:
                trace.inferenceTime = heldFor
                return finish(.answered(ended.usage))
            case .abandoned(let reason):
                return finish(.abandoned(reason))
            case .failed(let failure):
                trace.failures.append(failure)
                if isCommitted { return finish(.cutOff(failure)) }
                forgetReply()
                if !decision.next { return finish(.failed) }
                request.isCostlyRetry = decision.isCostly
                left = (trace.upstream ?? "", ended.outcome.metricLabel)
            }
        }
    }

    /// So far, the running one included.
    var attempts: [GenerationTrace.Attempt] { trace.attempts }

    var queuePosition: Int? { trace.queuePosition }

    private var text: String { reply?.text ?? "" }

    private var isCommitted: Bool { job.onPieces != nil && !text.isEmpty }

    private func forgetReply() {
        reply = nil
        countedPieces = 0
    }

    private func finish(_ end: GenerationResult.End) -> GenerationResult {
        GenerationResult(end: end, text: text, trace: trace, isCommitted: isCommitted)
    }

    private enum Admission {
        case success(Choice)
        case failure(GenerationResult.End)
    }

    /// A pause before the second and later fallbacks, so that many requests do not move on in step.
    private func pause(before request: SelectionRequest) async -> GenerationResult.End? {
        let random = Double.random(in: 0...1, using: &loop.value.random)
        let pause = Backoff.pause(afterAttempts: request.tried.count, random: random)
        guard pause > .zero else { return nil }
        backoffEnd = .now + pause
        defer { backoffEnd = nil }
        while true {
            switch await next() {
            case .timer(.backoff): return nil
            case .timer(.total): return .abandoned(.totalDeadline)
            case .abandoned(let reason):
                if reason == .clientLeft { gateway.metrics.clientLeft(.planned) }
                return .abandoned(reason)
            default: break  // what the last attempt left behind
            }
        }
    }

    /// Admit and plan: a slot at the best upstream, at once or after waiting in the queue.
    @inline(__always)
    private func admit(_ request: SelectionRequest) async -> Admission {
        while true {
            noteTotalDeadline(.now)
            if let reason = abandonReason { return .failure(.abandoned(reason)) }
            switch gateway.select(request, for: self) {
            case .attempt(let choice): return .success(choice)
            case .exhausted(let reason):
                trace.exhaustion = reason
                return .failure(.failed)
            case .refuse(let retryAfter): return .failure(.overloaded(retryAfter: retryAfter))
            case .wait(let position, let deadline, _):
                trace.queuePosition = trace.queuePosition ?? position
                isInQueue = true
                let admission = await waitForSlot(until: deadline)
                guard case .success(let choice) = admission, gateway.mode(choice.upstream) == .disabled else {
                    return admission
                }
                passOn(choice)  // an operator disabled it while the slot was on its way
            }
        }
    }

    private func waitForSlot(until deadline: MonotonicTime?) async -> Admission {
        let started = MonotonicTime.now
        trace.phase = .queued
        queueDeadline = deadline
        defer {
            isInQueue = false
            queueDeadline = nil
            // Of a slot that came when something else had ended the wait.
            for case .granted(let choice) in inbox { passOn(choice) }
            trace.queueTime += MonotonicTime.now - started
            gateway.metrics.waited(.now - started, left: abandonReason == .clientLeft)
        }
        while true {
            switch await next() {
            case .granted(let choice):
                guard let reason = abandonReason else { return .success(choice) }
                passOn(choice)
                return .failure(.abandoned(reason))
            case .displaced(let retryAfter):
                return .failure(.overloaded(retryAfter: retryAfter))
            case .stranded:
                trace.exhaustion = .noneEnabled
                return .failure(.failed)
            case .timer(.queue):
                // One that is not in the queue any more has a slot, or an end, on its way.
                guard let retryAfter = gateway.leaveQueue(waiter) else { continue }
                gateway.limits.note(.queueTime)
                gateway.logTimer(
                    "queue", of: deadline.map { $0 - started } ?? .zero, .now - started, requestID: job.requestID)
                return .failure(.overloaded(retryAfter: retryAfter))
            case .timer(.total):
                gateway.leaveQueue(waiter)
                return .failure(.abandoned(.totalDeadline))
            case .abandoned(let reason):
                gateway.leaveQueue(waiter)
                return .failure(.abandoned(reason))
            case .attemptEnded, .loadEnded, .interrupted, .timer: break  // what the last attempt left behind
            }
        }
    }

    /// One upstream, under its timers.
    @inline(__always)
    private func runAttempt(_ choice: Choice, _ request: SelectionRequest) async -> AttemptEnd {
        var snapshot = snapshot
        if snapshot.endpoints[choice.upstream] == nil {
            snapshot = gateway.snapshot  // it came with a later reload
        }
        guard let endpoint = snapshot.endpoints[choice.upstream] else {
            return AttemptEnd(outcome: .failed(.disabled), hasEnded: true)
        }
        let model = snapshot.models.model(for: job.modelID, on: choice.upstream)
        inbox.removeAll { !$0.isOfTheWholeRequest }
        upstream = choice.upstream
        forgetReply()
        trace.begin(endpoint.configuration.name, choice, accepted: job.accepted)
        defer {
            upstream = nil
            firstTokenDeadline = nil
        }
        if let model, gateway.isCold(choice.upstream, model: model) {
            if var ended = await waitForLoad(model, endpoint, choice, request) {
                ended.wasSent = false
                return ended
            }
        }
        let timeouts = endpoint.configuration.timeouts
        let reply = send(to: endpoint, model: model)
        self.reply = reply
        let result = await follow(
            reply, request, model: model, cold: timeouts.firstTokenCold - timeouts.firstToken)
        reply.end()
        trace.connectTime = reply.connectTime ?? trace.connectTime
        if let transfer = reply.transfer, !reply.isTransferOver {
            // After an answer's end only the end of its transfer is awaited, as its connection can be used again.
            if result.hasEnded { loop.value.linger(transfer) } else { transfer.cancel() }
        }
        reply.transfer = nil
        return result
    }

    private func send(to endpoint: UpstreamEndpoint, model: String?) -> AttemptReply {
        let kind = endpoint.configuration.kind
        let body = UpstreamRequestWriter.body(job.chat, kind: kind, model: model)
            .withUnsafeReadableBytes { RequestBody(copying: $0) }
        let timeouts = endpoint.configuration.timeouts
        trace.phase = .prompt
        let now = MonotonicTime.now
        trace.requestSent(now)
        firstTokenPatience = timeouts.firstToken
        firstTokenDeadline = now + timeouts.firstToken
        let reply = AttemptReply(
            of: self, endpoint.configuration, metrics: gateway.metrics, parser: loop.value.parser,
            onPieces: job.onPieces)
        reply.transfer = gateway.engine.start(
            TransferRequest(
                method: .post, target: endpoint.target, headers: endpoint.postHeaders, body: body,
                timers: TransferTimers(
                    connect: timeouts.connect, total: snapshot.configuration.server.totalTimeout + .seconds(1))),
            receiver: reply.receiver(on: eventLoop), on: loop.value.delivery)
        return reply
    }

    /// The gateway loads the model for everyone who waits for it. Patience is long, unless another upstream has it.
    /// - Returns: the attempt's end, where the load did not come about.
    private func waitForLoad(
        _ model: String, _ endpoint: UpstreamEndpoint, _ choice: Choice, _ request: SelectionRequest
    ) async -> AttemptEnd? {
        let started = MonotonicTime.now
        trace.phase = .loading
        defer { trace.loadTime += .now - started }
        let timeouts = endpoint.configuration.timeouts
        let isElsewhere = gateway.isLoadedElsewhere(request, than: choice.upstream)
        firstTokenPatience = isElsewhere ? timeouts.firstToken : timeouts.firstTokenCold
        firstTokenDeadline = started + firstTokenPatience
        let began = gateway.loader.load(model, on: choice.upstream, endpoint, gateway, loop: loop.value, for: self)
        defer { gateway.loader.leave(self) }
        // A load may hang. Where another could answer, who comes late waits no longer than the first did.
        if gateway.isAvailableElsewhere(request, than: choice.upstream) {
            firstTokenDeadline = min(started, began) + firstTokenPatience
        }
        while true {
            switch await next() {
            case .loadEnded(choice.upstream, .loaded): return nil
            case .loadEnded(choice.upstream, .failed(.status(400...499), _)):
                return nil  // it does not know such a request: the real one will show
            case .loadEnded(choice.upstream, .failed(let failure, let isFirst)):
                return AttemptEnd(outcome: .failed(failure), hasEnded: true, isShared: !isFirst)
            case .timer(.firstToken):
                // Where another upstream has the model, leaving is not the fault of the one that loads it.
                let isShared = isElsewhere || !gateway.loader.timedOut(model, on: choice.upstream, endpoint)
                return AttemptEnd(outcome: .failed(.firstTokenTimer), hasEnded: true, isShared: isShared)
            case .timer(.total): return AttemptEnd(outcome: .abandoned(.totalDeadline), hasEnded: true)
            case .abandoned(let reason): return AttemptEnd(outcome: .abandoned(reason), hasEnded: true)
            case .interrupted: return AttemptEnd(outcome: .failed(.disabled), hasEnded: true)
            case .attemptEnded, .granted, .displaced, .stranded, .loadEnded, .timer: break  // what came before
            }
        }
    }

    /// Waits for the attempt's end; what comes before it is the reply's.
    /// - Parameter cold: how much longer the first token may take where the upstream turns out to load the model.
    @inline(__always)
    private func follow(
        _ reply: AttemptReply, _ request: SelectionRequest, model: String?, cold: Duration
    ) async -> AttemptEnd {
        var mayExtend = cold > .zero
        while true {
            switch await next() {
            case .attemptEnded(let ended): return ended
            case .timer(.firstToken) where reply.isOver, .timer(.idle) where reply.isOver:
                continue  // the attempt's end came meanwhile
            case .timer(.firstToken):
                if let failure = reply.statusFailure {
                    return AttemptEnd(outcome: .failed(failure), hasEnded: false, detail: "its body did not end")
                }
                if mayExtend, let upstream, gateway.isCold(upstream, model: model),
                    !gateway.isLoadedElsewhere(request, than: upstream)
                {
                    mayExtend = false
                    firstTokenPatience += cold
                    firstTokenDeadline = .now + cold
                    continue
                }
                return AttemptEnd(outcome: .failed(.firstTokenTimer), hasEnded: false)
            case .timer(.idle): return AttemptEnd(outcome: .failed(.idleTimer), hasEnded: false)
            case .timer(.total): return AttemptEnd(outcome: .abandoned(.totalDeadline), hasEnded: false)
            case .abandoned(let reason): return AttemptEnd(outcome: .abandoned(reason), hasEnded: false)
            case .interrupted: return AttemptEnd(outcome: .failed(.disabled), hasEnded: false)
            case .granted, .displaced, .stranded, .loadEnded, .timer: break  // what came before
            }
        }
    }

    /// The reply's last word.
    func attemptEnded(_ end: AttemptEnd) { post(.attemptEnded(end)) }

    /// A status says most of what there is to know: its body may add to it, but is not waited for long.
    func noteErrorStatus() {
        firstTokenDeadline = min(firstTokenDeadline ?? .now, .now + Self.errorBodyPatience)
    }

    func noteFirstToken() {
        firstTokenDeadline = nil
        trace.firstToken()
        trace.phase = .generating
    }

    /// Tells the table, and the log where an operator should know.
    private func settle(_ choice: Choice, _ ended: AttemptEnd, heldFor: Duration) -> FallbackDecision {
        var decision = FallbackDecision()
        var report = AttemptReport(.neutral, breakerEra: choice.breakerEra, heldFor: heldFor)
        switch ended.outcome {
        case .success:
            report.verdict = .success
            report.firstToken = trace.firstTokenTime
            trace.tokensPerSecond = trace.rate(ended.usage.completionTokens)
            report.tokensPerSecond = trace.tokensPerSecond
        case .abandoned: break
        case .failed(let failure):
            let endpoint = snapshot.endpoints[choice.upstream] ?? gateway.snapshot.endpoints[choice.upstream]
            guard let upstream = endpoint?.configuration else {
                decision.next = !isCommitted  // it came and went with two reloads
                break
            }
            decision = FallbackPolicy.decide(
                failure, kind: upstream.kind, idempotent: upstream.idempotent, committed: isCommitted)
            if decision.countsAgainst, !ended.isShared { report.verdict = .failure }
            if !ended.wasSent { decision.isCostly = false }
            report.rest = decision.rest
            report.failure = failure
            if case .reply(.lineTooLong) = failure { gateway.limits.note(.reply) }
            gateway.logFailure(
                failure, ended.detail, upstream: upstream, requestID: job.requestID, elapsed: heldFor,
                timer: failure == .firstTokenTimer ? firstTokenPatience : upstream.timeouts.duration(of: failure),
                decision)
        }
        var tokens = ended.usage.completionTokens
        if tokens == nil, case .success = ended.outcome { tokens = WebLLMText.estimatedTokens(text) }
        gateway.metrics.attempt(
            trace.upstream ?? "", ended.outcome, trace, ended.usage, tokens: tokens, countedTokens: countedPieces)
        countedPieces = reply?.pieces ?? 0
        trace.end(ended.outcome)
        if !isStillConfigured(choice.upstream) {
            report = AttemptReport(.neutral, breakerEra: choice.breakerEra)
        }
        gateway.settle(choice.upstream, client: job.client, report)
        return decision
    }

    /// Whether the upstream is the server that this request knows under its name. A request keeps its configuration over a
    /// reload; how another server fared says nothing of the present one.
    private func isStillConfigured(_ id: UpstreamID) -> Bool {
        let latest = gateway.snapshot
        guard latest !== snapshot, let own = snapshot.endpoints[id], let present = latest.endpoints[id], own !== present
        else { return true }
        return own.configuration.url == present.configuration.url
            && own.configuration.kind == present.configuration.kind
    }

    // MARK: What operators see of it

    /// As it is now.
    var running: RunningRequest {
        RunningRequest(
            id: waiter.rawValue, requestID: job.requestID, route: job.route, client: job.clientAddress,
            model: job.modelID, upstream: upstream == nil ? nil : trace.upstream, phase: trace.phase,
            accepted: job.accepted, pieces: reply?.pieces ?? 0, isStream: job.onPieces != nil)
    }

    /// Pieces since the last call, and the upstream they came from.
    func takePieces() -> (upstream: String, count: Int)? {
        guard let pieces = reply?.pieces, pieces > countedPieces, let upstream = trace.upstream else { return nil }
        defer { countedPieces = pieces }
        return (upstream, pieces - countedPieces)
    }

    // MARK: Signals

    @inline(__always)
    private func next() async -> Signal {
        while true {
            guard !inbox.isEmpty else {
                await withUnsafeContinuation { continuation = $0 }
                continue
            }
            let signal = inbox.removeFirst()
            if case .timer(let timer) = signal, isOutdated(timer) { continue }
            return signal
        }
    }

    /// Whether what a timer that has fired waited for came meanwhile, or it was set anew.
    private func isOutdated(_ timer: FiredTimer) -> Bool {
        switch timer {
        case .queue: queueDeadline != nil
        case .backoff: backoffEnd != nil
        case .firstToken: firstTokenDeadline != nil || reply?.hasFirstToken == true
        case .idle: reply?.isIdle != true
        case .total: false
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
        eventLoop.execute { self.onEventLoop { $0.takeGrant(choice) } }
    }

    private func takeGrant(_ choice: Choice) {
        if isInQueue, abandonReason == nil {
            post(.granted(choice))
        } else {
            passOn(choice)
        }
    }

    /// A slot that is not needed any more goes to the next.
    private func passOn(_ choice: Choice) {
        gateway.settle(choice.upstream, client: job.client, AttemptReport(.neutral, breakerEra: choice.breakerEra))
    }

    /// From any thread: its place in the queue is gone.
    nonisolated func displace(retryAfter: Int) {
        eventLoop.execute { self.onEventLoop { $0.post(.displaced(retryAfter: retryAfter)) } }
    }

    /// From any thread: what it could wait for was taken out.
    nonisolated func strand() { eventLoop.execute { self.onEventLoop { $0.post(.stranded) } } }

    /// From any thread: the load it waits for has ended.
    nonisolated func loadEnded(_ upstream: UpstreamID, _ result: ModelLoader.Result) {
        eventLoop.execute { self.onEventLoop { $0.post(.loadEnded(upstream, result)) } }
    }

    /// An operator disabled an upstream: an attempt there ends.
    func interrupt(_ id: UpstreamID) {
        if upstream == id { post(.interrupted) }
    }

    /// The client left, or the gateway must stop: ends in whatever phase it is.
    func abandon(_ reason: AbandonReason) {
        guard abandonReason == nil else { return }
        abandonReason = reason
        if let reply, let transfer = reply.transfer {
            if reason == .clientLeft { reply.clientLeft(in: trace.phase, of: trace.upstream ?? "") }
            transfer.cancel()
        }
        post(.abandoned(reason))
    }

    /// Whether the client takes bytes.
    func setClientReading(_ isReading: Bool) { reply?.setClientReading(isReading) }

    /// - Returns: whether the deadline, which has passed, is what ends the generation.
    @discardableResult
    private func noteTotalDeadline(_ now: MonotonicTime) -> Bool {
        guard now >= totalDeadline, abandonReason == nil else { return false }
        abandonReason = .totalDeadline
        gateway.logTimer("total", of: totalDeadline - job.accepted, now - job.accepted, requestID: job.requestID)
        return true
    }

    func tick(_ now: MonotonicTime) {
        if now >= totalDeadline {
            if noteTotalDeadline(now) { post(.timer(.total)) }
        } else if let deadline = queueDeadline, now >= deadline {
            queueDeadline = nil
            post(.timer(.queue))
        } else if let end = backoffEnd, now >= end {
            backoffEnd = nil
            post(.timer(.backoff))
        } else if let deadline = firstTokenDeadline, now >= deadline {
            firstTokenDeadline = nil
            post(.timer(.firstToken))
        } else if let reply, reply.checkIdle(now) {
            post(.timer(.idle))
        }
    }
}
