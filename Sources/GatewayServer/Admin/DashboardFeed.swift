import GatewayCore
import GatewayWire
import NIOCore
import NIOHTTP1

/// What a dashboard is sent: everything at first, then once a second what is new. Samples, not every request, so that it
/// costs the same at any load. Lives on its connection's event loop.
final class DashboardFeed {
    private let gateway: Gateway
    private let loop: LoopContext
    private weak var connection: HTTPConnection?
    private let request: Shared<RequestHead>
    private let requestID: String
    private let started = MonotonicTime.now
    /// That of the token with which it was let in.
    private let tokenDigest: [UInt8]?
    private let client: String
    private var ticker: RepeatedTask?
    private var lastFinished = 0
    private var lastStep: Int64 = 0

    private static let interval = TimeAmount.seconds(1)
    private static let runningShown = 50
    private static let firstRecent = 50
    private static let recentShown = 20

    init(gateway: Gateway, loop: LoopContext, connection: HTTPConnection, request: Shared<RequestHead>) {
        self.gateway = gateway
        self.loop = loop
        self.connection = connection
        self.request = request
        requestID = request.requestID ?? loop.makeRequestID()
        client = connection.clientAddress
        tokenDigest = gateway.configuration.admin.tokenDigest
    }

    func start() {
        if request.method == .HEAD {
            connection?.startStream(head, first: ByteBuffer())
            return note(.ok)
        }
        withRunning { feed, requests, total in feed.sendStart(requests, total) }
        let bound = NIOLoopBound(self, eventLoop: loop.eventLoop)
        ticker = loop.eventLoop.scheduleRepeatedTask(initialDelay: Self.interval, delay: Self.interval) { _ in
            bound.value.tick()
        }
    }

    /// The client is gone: that is how a feed ends.
    func stop() { stop(.ok) }

    /// The gateway stops: a dashboard must not hold it up.
    func end() {
        stop(.drained)
        connection?.startStream(head, first: ByteBuffer())  // where it has not begun
        connection?.endStream(last: ByteBuffer())
    }

    private func stop(_ outcome: RequestOutcome) {
        guard let ticker else { return }
        ticker.cancel()
        self.ticker = nil
        note(outcome)
    }

    private func note(_ outcome: RequestOutcome) {
        gateway.finished(
            AccessRecord(
                requestID: requestID, client: client, route: "admin_events", method: request.method.rawValue,
                status: 200, outcome: outcome, duration: .now - started), gateway.configuration.log)
    }

    private var head: ReplyHead {
        var head = ReplyHead(200, contentType: "text/event-stream", requestID: requestID)
        head.fields = AdminAccess.securityHeaders + [("X-Accel-Buffering", "no")]
        return head
    }

    private func tick() {
        // Who was let in with a token that is no longer the token has to show the new one.
        guard gateway.configuration.admin.tokenDigest == tokenDigest else { return end() }
        // A dashboard that does not read misses figures, and costs no memory.
        guard connection?.isWritable == true else { return }
        withRunning { feed, requests, total in feed.sendTick(requests, total) }
    }

    private func withRunning(_ body: @escaping @Sendable (DashboardFeed, [RunningRequest], Int) -> Void) {
        guard let operations = gateway.operations else { return }
        let bound = NIOLoopBound(self, eventLoop: loop.eventLoop)
        operations.running(Self.runningShown) { requests, total in
            bound.eventLoop.execute {
                guard bound.value.ticker != nil else { return }
                body(bound.value, requests, total)
            }
        }
    }

    private func sendStart(_ requests: [RunningRequest], _ total: Int) {
        let snapshot = gateway.snapshot
        let names = snapshot.configuration.upstreams.map(\.name)
        let (steps, step) = gateway.metrics.withSeries { ($0.steps(.now), $0.stepNumber(.now)) }
        lastStep = step
        let (recent, finished, clears) = gateway.history.recent(afterFirst: nil, limit: Self.firstRecent)
        let event = event("start") { writer in
            writeState(snapshot, requests, total, &writer)
            writer.key("series")
            writer.beginObject()
            writer.series(steps, names)
            writer.endObject()
            writer.field("clears", clears)
            writeRecent(recent, finished, &writer)
        }
        connection?.startStream(head, first: event)
    }

    private func sendTick(_ requests: [RunningRequest], _ total: Int) {
        let snapshot = gateway.snapshot
        let names = snapshot.configuration.upstreams.map(\.name)
        let (steps, step) = gateway.metrics.withSeries { ($0.steps(.now), $0.stepNumber(.now)) }
        let (recent, finished, clears) = gateway.history.recent(afterFirst: lastFinished, limit: Self.recentShown)
        let event = event("tick") { writer in
            writeState(snapshot, requests, total, &writer)
            writer.field("finished", finished - lastFinished)
            writer.field("clears", clears)
            writeRecent(recent, finished, &writer)
            // The last one that was sent was not over then.
            writer.key("points")
            writer.beginArray()
            for point in steps.suffix(Int(min(step - lastStep, TimeSeries.stepCount - 1)) + 1) {
                writer.point(point, names)
            }
            writer.endArray()
        }
        lastStep = step
        connection?.stream { $0.writeImmutableBuffer(event) }
    }

    private func writeState(
        _ snapshot: Snapshot, _ requests: [RunningRequest], _ total: Int, _ writer: inout JSONWriter
    ) {
        writer.key("status")
        writer.beginObject()
        AdminReplies.writeStatus(gateway, snapshot, &writer)
        writer.endObject()
        writer.key("running")
        writer.beginObject()
        writer.running(requests, total: total)
        writer.endObject()
        writer.key("alerts")
        writer.alerts(Alert.all(gateway, snapshot))
    }

    /// Newest first.
    private func writeRecent(_ recent: [StoredRequest], _ finished: Int, _ writer: inout JSONWriter) {
        lastFinished = finished
        writer.key("recent")
        writer.beginArray()
        for request in recent.reversed() { request.write(&writer, isWhole: false) }
        writer.endArray()
    }

    private func event(_ name: StaticString, _ fields: (inout JSONWriter) -> Void) -> ByteBuffer {
        var buffer = ByteBuffer()
        buffer.writeStaticString("event: ")
        buffer.writeStaticString(name)
        buffer.writeStaticString("\ndata: ")
        var writer = JSONWriter(buffer)
        writer.beginObject()
        fields(&writer)
        writer.endObject()
        buffer = writer.buffer
        buffer.writeStaticString("\n\n")
        return buffer
    }
}
