import GatewayCore
import GatewayWire
import NIOCore
import NIOHTTP1

/// One generation request of a client, from decode to settle. It lives on its connection's event loop.
actor Exchange: EventLoopActor {
    private let gateway: Gateway
    private let snapshot: Snapshot
    private let client: ClientID
    private let clientAddress: String
    private let loop: NIOLoopBound<LoopContext>
    private let connection: NIOLoopBound<HTTPConnection>
    let executor: EventLoopExecutor
    private let head: Shared<RequestHead>
    private let accepted = MonotonicTime.now
    /// The client's own, or a new one.
    private let requestID: String
    private var generations: [Generation] = []
    /// The item of a batch that may wait for a slot, and those that come after it.
    private var entrant: Generation?
    private var itemsBehind: [(generation: Generation, continuation: UnsafeContinuation<Void, Never>)] = []
    private var abandonReason: AbandonReason?
    /// Nil where the client wants the answer whole.
    private var stream: StreamedReply?

    nonisolated var unownedExecutor: UnownedSerialExecutor { executor.asUnownedSerialExecutor() }

    init(
        gateway: Gateway, loop: NIOLoopBound<LoopContext>, connection: NIOLoopBound<HTTPConnection>,
        head: Shared<RequestHead>
    ) {
        self.gateway = gateway
        snapshot = connection.value.snapshot
        client = connection.value.client
        clientAddress = connection.value.clientAddress
        self.loop = loop
        self.connection = connection
        self.head = head
        executor = loop.value.executor
        requestID = head.requestID ?? loop.value.makeRequestID()
    }

    /// The client leaving ends the exchange from here on. The work begins at once, and may be over when this returns: callers
    /// do nothing more.
    private func start(_ work: @escaping @Sendable (isolated Exchange) async -> Void) {
        connection.value.attach(self)
        executor.runHere { Task(executorPreference: executor) { await work(self) } }
    }

    private var settings: GatewayConfiguration { snapshot.configuration }

    // MARK: POST /webllm/api/infer

    func infer(_ body: ByteBuffer) {
        let request: InferRequest
        do throws(RequestFault) {
            request = try WebLLMReader.infer(body, limits: snapshot.webllmLimits, parser: loop.value.parser)
        } catch {
            return refuse(error.message, route: "infer")
        }
        if let refusal = pinRefusal { return refuse(refusal, route: "infer") }
        let modelID = request.modelID ?? settings.webllm.defaultModel
        let generation = makeGeneration(
            request.prompt, modelID, request.sampling, onPieces: request.stream ? prepareStream() : nil)
        let mode = request.mode
        // Of what runs as long as the answer takes, the frame is kept small: here nothing but names.
        start { exchange in exchange.settle(await generation.run(), mode: mode, modelID: modelID) }
    }

    private func makeGeneration(
        _ prompt: String, _ modelID: String, _ sampling: SamplingParameters, isBatchItem: Bool = false,
        onAdmitted: (@Sendable (Generation) -> Void)? = nil, onPieces: Generation.PiecesHandler? = nil
    ) -> Generation {
        let stored = gateway.settings(for: modelID)?.sampling ?? SamplingParameters()
        let chat = ChatRequest(
            messages: messages(prompt),
            sampling: sampling.filled(from: stored).filled(from: .productDefaults))
        let job = Generation.Job(
            chat: chat, modelID: modelID, client: client, accepted: accepted, requestID: requestID,
            isBatchItem: isBatchItem, pinned: settings.routing.allowPin ? head.pinnedUpstream : nil,
            clientAddress: clientAddress, route: isBatchItem ? "batch" : "infer", onAdmitted: onAdmitted,
            onPieces: onPieces)
        let generation = Generation(gateway: gateway, snapshot: snapshot, loop: loop, job: job)
        if let reason = abandonReason { generation.onEventLoop { $0.abandon(reason) } }
        generations.append(generation)
        return generation
    }

    /// Without a system message where that is empty: the templates of some models know no such role, and an empty one would
    /// take the place of the model's own.
    private func messages(_ prompt: String) -> [ChatMessage] {
        let user = ChatMessage(role: .user, content: prompt)
        let system = settings.webllm.systemPrompt
        return system.isEmpty ? [user] : [ChatMessage(role: .system, content: system), user]
    }

    /// A pin that names no upstream would fail, as if all had.
    private var pinRefusal: String? {
        guard settings.routing.allowPin, let name = head.pinnedUpstream,
            !settings.upstreams.contains(where: { $0.name == name })
        else { return nil }
        return "X-Gateway-Upstream names no upstream of this gateway"
    }

    /// - Returns: what sends pieces of the answer to the client. The first one commits; all others take a shorter way.
    private func prepareStream() -> Generation.PiecesHandler {
        let stream = StreamedReply(head.acceptsNDJSON ? .ndjson : .sse, over: connection.value)
        self.stream = stream
        let bound = NIOLoopBound(stream, eventLoop: loop.value.eventLoop)
        return { [unowned self] pieces in
            let stream = bound.value
            if stream.hasStarted { stream.send(pieces) } else { onEventLoop { $0.commit(pieces) } }
            if !stream.isWritable { onEventLoop { $0.tellGenerations(reading: false) } }
        }
    }

    private func commit(_ pieces: [String]) { stream?.send(pieces, head: streamHead()) }

    /// Nothing was sent for a while: something that means nothing keeps proxies in between from cutting the stream.
    /// The status is 200 from here on, whatever comes.
    func heartbeat() {
        guard let stream, !generations.isEmpty else { return }
        stream.heartbeat(head: stream.hasStarted ? nil : streamHead(isCommitted: false))
    }

    /// - Parameter isCommitted: before that nobody knows which upstream will answer.
    private func streamHead(isCommitted: Bool = true) -> ReplyHead {
        var reply = ReplyHead(200, contentType: stream?.contentType ?? "", requestID: requestID)
        reply.fields = [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]
        let generation = generations.first
        if isCommitted { addGatewayFields(&reply, generation?.onEventLoop { $0.attempts } ?? []) }
        addQueuePosition(&reply, generation?.onEventLoop { $0.queuePosition })
        return reply
    }

    /// - Parameter isFallback: no upstream answered.
    private func addGatewayFields(
        _ reply: inout ReplyHead, _ attempts: [GenerationTrace.Attempt], isFallback: Bool = false
    ) {
        guard let last = attempts.last else {
            if isFallback { reply.fields.append(("X-Gateway-Attempts", "0")) }
            return
        }
        if !isFallback { reply.fields.append(("X-Gateway-Upstream", last.upstream)) }
        reply.fields.append(("X-Gateway-Attempts", "\(attempts.count)"))
    }

    /// Where the request stood when it had to wait for a slot.
    private func addQueuePosition(_ reply: inout ReplyHead, _ position: Int?) {
        if let position { reply.fields.append(("X-Queue-Position", "\(position)")) }
    }

    private func reply(_ report: InferReport, _ result: GenerationResult) {
        if let stream, stream.hasStarted {
            if let fault = report.fault {
                stream.fail(fault.message, requestID: requestID)
            } else {
                stream.end(report.reply)
            }
            return
        }
        guard report.outcome != .clientLeft else { return }
        if let fault = report.fault {
            var reply = Reply.error(fault.status, fault.message)
            if let seconds = fault.retryAfter { reply.head.fields.append(("Retry-After", "\(seconds)")) }
            finish(reply, result)
        } else if let stream {
            var head = streamHead()
            addQueuePosition(&head, result.trace.queuePosition)
            addGatewayFields(&head, result.trace.attempts, isFallback: report.outcome == .fallback)
            stream.send(report.reply.text.isEmpty ? [] : [report.reply.text], head: head)
            stream.end(report.reply)
        } else {
            var writer = JSONWriter(ByteBufferAllocator().buffer(capacity: 320 + report.reply.text.utf8.count))
            writer.beginObject()
            writer.inferFields(report.reply)
            writer.endObject()
            finish(Reply(ReplyHead(200), body: writer.buffer), result, isFallback: report.outcome == .fallback)
        }
    }

    private func finish(_ reply: Reply, _ result: GenerationResult, isFallback: Bool = false) {
        var reply = reply
        reply.head.requestID = requestID
        addGatewayFields(&reply.head, result.trace.attempts, isFallback: isFallback)
        addQueuePosition(&reply.head, result.trace.queuePosition)
        connection.value.reply(reply)
    }

    private func settle(_ result: GenerationResult, mode: String, modelID: String) {
        generations = []
        let report = InferReport(
            requestID: requestID, result: result, mode: mode, modelID: modelID, webllm: settings.webllm)
        let record = record(
            "infer", report.status, report.outcome, model: modelID, result.trace, tokens: report.reply.tokensGenerated)
        // Before its client has the answer: who asks for the history then finds it there.
        keep(report, record)
        gateway.finished(record, settings.log)
        reply(report, result)
    }

    private func keep(_ report: InferReport, _ record: AccessRecord) {
        gateway.metrics.generation(report.outcome)
        gateway.history.record(
            StoredRequest(report, record, isStream: stream != nil, policy: settings.routing.policy))
    }

    // MARK: POST /webllm/api/infer/batch

    func batch(_ body: ByteBuffer) {
        do throws(RequestFault) {
            let request = try WebLLMReader.batch(body, limits: snapshot.webllmLimits, parser: loop.value.parser)
            if let refusal = pinRefusal { return refuse(refusal, route: "batch") }
            start { exchange in await exchange.answer(request) }
        } catch {
            refuse(error.message, route: "batch")
        }
    }

    private func answer(_ request: BatchRequest) async {
        let modelID = request.modelID ?? settings.webllm.defaultModel
        var results = [BatchResult?](repeating: nil, count: request.items.count)
        var attempts: [GenerationTrace.Attempt] = []
        var tokens = 0
        var isAnswered = false
        var firstFailure: RequestOutcome?
        await withTaskGroup(of: (Int, InferReport, GenerationResult).self) { group in
            var waiting: [(Int, String)] = []
            for (index, item) in request.items.enumerated() {
                switch item {
                case .invalid(let error, let json): results[index] = .refused(error: error, promptJSON: json)
                case .prompt(let prompt): waiting.append((index, prompt))
                }
            }
            waiting.reverse()
            for _ in 0..<gateway.batchWidth {
                guard let (index, prompt) = waiting.popLast() else { break }
                addItem(index, prompt, modelID, request.sampling, to: &group)
            }
            for await (index, report, result) in group {
                attempts.append(contentsOf: result.trace.attempts)
                tokens += report.reply.tokensGenerated
                isAnswered = isAnswered || report.outcome == .ok
                firstFailure = firstFailure ?? (report.outcome == .ok ? nil : report.outcome)
                keep(
                    report,
                    record(
                        "batch", report.status, report.outcome, model: modelID, result.trace,
                        tokens: report.reply.tokensGenerated))
                results[index] = report.batchResult(prompt: request.items[index])
                if abandonReason == nil, let (next, prompt) = waiting.popLast() {
                    addItem(next, prompt, modelID, request.sampling, to: &group)
                }
            }
        }
        generations = []
        let outcome: RequestOutcome =
            switch abandonReason {
            case .clientLeft: .clientLeft
            case .drain: .drained
            // One answer makes it a success; the items tell which others there are.
            default: isAnswered ? .ok : firstFailure ?? .refused
            }
        var trace = GenerationTrace()
        trace.attempts = attempts
        gateway.finished(
            record("batch", outcome == .clientLeft ? 499 : 200, outcome, model: modelID, trace, tokens: tokens),
            settings.log)
        guard outcome != .clientLeft else { return }
        var writer = JSONWriter()
        let message = "The gateway is stopping"
        writer.batch(
            results.enumerated().map { index, result in
                result ?? BatchResult.refused(error: message, promptJSON: request.items[index].json)
            })
        var reply = Reply(ReplyHead(200, requestID: requestID), body: writer.buffer)
        addGatewayFields(&reply.head, attempts, isFallback: outcome == .fallback)
        connection.value.reply(reply)
    }

    private func addItem(
        _ index: Int, _ prompt: String, _ modelID: String, _ sampling: SamplingParameters,
        to group: inout TaskGroup<(Int, InferReport, GenerationResult)>
    ) {
        let onAdmitted: @Sendable (Generation) -> Void = { [unowned self] generation in
            onEventLoop { $0.passEntry(from: generation) }
        }
        let generation = makeGeneration(prompt, modelID, sampling, isBatchItem: true, onAdmitted: onAdmitted)
        let id = loop.value.makeRequestID()
        let webllm = settings.webllm
        group.addTask {
            await self.enterQueue(generation)
            let result = await generation.run()
            await self.passEntry(from: generation)
            let report = InferReport(
                requestID: id, result: result, mode: "client_side", modelID: modelID, webllm: webllm)
            return (index, report, result)
        }
    }

    /// Of a batch one item at a time waits for a slot: they do not count towards the queue's limit, and must not fill it.
    private func enterQueue(_ generation: Generation) async {
        if entrant == nil {
            entrant = generation
        } else {
            await withUnsafeContinuation { itemsBehind.append((generation, $0)) }
        }
    }

    /// An item has its slot, or has ended without one.
    private func passEntry(from generation: Generation) {
        guard entrant === generation else { return }
        guard !itemsBehind.isEmpty else {
            entrant = nil
            return
        }
        let next = itemsBehind.removeFirst()
        entrant = next.generation
        next.continuation.resume()
    }

    // MARK: Ends from outside

    private func refuse(_ message: String, route: String) {
        var reply = Reply.error(400, message)
        reply.head.requestID = requestID
        gateway.finished(record(route, 400, .refused), settings.log)
        connection.value.reply(reply)
    }

    /// What the access log says of it, as of now.
    private func record(
        _ route: String, _ status: Int, _ outcome: RequestOutcome, model: String? = nil,
        _ trace: GenerationTrace = .init(), tokens: Int = 0
    ) -> AccessRecord {
        AccessRecord(
            requestID: requestID, client: clientAddress, route: route, method: head.method.rawValue, status: status,
            outcome: outcome, duration: .now - accepted, model: model, trace: trace, tokens: tokens)
    }

    /// The client left, or the gateway stops.
    func abandon(_ reason: AbandonReason) {
        abandonReason = abandonReason ?? reason
        for generation in generations { generation.onEventLoop { $0.abandon(reason) } }
    }

    func clientReads() { tellGenerations(reading: true) }

    private func tellGenerations(reading: Bool) {
        for generation in generations { generation.onEventLoop { $0.setClientReading(reading) } }
    }
}
