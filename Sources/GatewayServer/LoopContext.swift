import CurlMulti
import GatewayCore
import GatewayWire
import Glibc
import NIOCore

/// What one event loop's requests share. It never leaves its loop.
final class LoopContext {
    let eventLoop: any EventLoop
    let executor: EventLoopExecutor
    let delivery: LoopDelivery
    let parser = JSONParser()
    var random = BufferedRandom()
    private var connections: [ObjectIdentifier: HTTPConnection] = [:]
    private var generations: [ObjectIdentifier: Generation] = [:]
    /// Transfers whose answer is whole and whose end has not come, and how long it may still take.
    private var lingering: [(transfer: Transfer, until: MonotonicTime)] = []
    private static let lingerTime: Duration = .seconds(1)
    private var ticker: RepeatedTask?
    private var lastTick = MonotonicTime(nanoseconds: 0)
    private static let standstill: Duration = .seconds(1)
    private var lastPieceCount = MonotonicTime(nanoseconds: 0)
    private var dateSecond: Int64 = -1
    private var dateText = ""
    /// Where replies are put together, one at a time.
    private var output = ByteBuffer()
    /// Bytes of it that are kept for the next reply.
    private static let maxKeptOutput = 64 << 10

    /// How often timers of seconds are looked at: one pass over all connections costs less than a scheduled task a
    /// request.
    static let tickInterval: TimeAmount = .milliseconds(50)

    private let gateway: Gateway

    init(eventLoop: any EventLoop, gateway: Gateway) {
        self.gateway = gateway
        self.eventLoop = eventLoop
        executor = EventLoopExecutor(eventLoop)
        delivery = LoopDelivery(eventLoop: eventLoop)
    }

    // MARK: Timers

    func add(_ connection: HTTPConnection) {
        connections[ObjectIdentifier(connection)] = connection
        startTicking()
    }

    func remove(_ connection: HTTPConnection) { connections[ObjectIdentifier(connection)] = nil }

    func add(_ generation: Generation) {
        generations[ObjectIdentifier(generation)] = generation
        gateway.noteRunning(1)
        startTicking()
    }

    func remove(_ generation: Generation) {
        generations[ObjectIdentifier(generation)] = nil
        gateway.noteRunning(-1)
    }

    var runningGenerations: [Generation] { Array(generations.values) }

    var openConnections: [HTTPConnection] { Array(connections.values) }

    /// Some servers keep a reply open after its last line.
    func linger(_ transfer: Transfer) {
        lingering.append((transfer, .now + Self.lingerTime))
        startTicking()
    }

    private func startTicking() {
        guard ticker == nil else { return }
        let bound = NIOLoopBound(self, eventLoop: eventLoop)
        ticker = eventLoop.scheduleRepeatedTask(initialDelay: Self.tickInterval, delay: Self.tickInterval) { _ in
            bound.value.tick()
        }
    }

    private func tick() {
        let now = MonotonicTime.now
        defer { lastTick = now }
        // After the process stood still, what came meanwhile is read before any timer is looked at.
        guard now - lastTick < Self.standstill else { return }
        for connection in connections.values { connection.tick(now) }
        for generation in generations.values { generation.onEventLoop { $0.tick(now) } }
        if !generations.isEmpty {
            gateway.wakeQueue()
            if now - lastPieceCount >= .seconds(1) { countPieces(now) }
        }
        if let first = lingering.first, now >= first.until {
            for (transfer, until) in lingering where now >= until { transfer.cancel() }
            lingering.removeAll { now >= $0.until }
        }
        guard connections.isEmpty && generations.isEmpty && lingering.isEmpty else { return }
        ticker?.cancel()
        ticker = nil
    }

    private func countPieces(_ now: MonotonicTime) {
        lastPieceCount = now
        var counts: [String: Int] = [:]
        for generation in generations.values {
            guard let (upstream, count) = generation.onEventLoop({ $0.takePieces() }) else { continue }
            counts[upstream, default: 0] += count
        }
        gateway.metrics.tokens(counts)
    }

    // MARK: Small things made for each reply

    func makeRequestID() -> String { RequestIdentifier.make(using: &random) }

    /// Lends an empty buffer.
    func withOutput<Value>(_ body: (inout ByteBuffer) -> Value) -> Value {
        defer {
            if output.capacity > Self.maxKeptOutput { output = ByteBuffer() } else { output.clear() }
        }
        return body(&output)
    }

    /// The Date header's value, worked out once a second.
    func httpDate(_ timestamp: Timestamp) -> String {
        let second = timestamp.microseconds / 1_000_000
        if second != dateSecond {
            dateSecond = second
            dateText = timestamp.httpDate
        }
        return dateText
    }
}

/// The system's random numbers, 32 for one system call.
struct BufferedRandom: RandomNumberGenerator {
    private var numbers: [UInt64] = []

    mutating func next() -> UInt64 {
        if let number = numbers.popLast() { return number }
        numbers = [UInt64](repeating: 0, count: 32)
        numbers.withUnsafeMutableBytes { arc4random_buf($0.baseAddress!, $0.count) }
        return numbers.removeLast()
    }
}

/// Brings what a turn of a curl loop produced to an event loop, in one task.
final class LoopDelivery: DeliveryQueue {
    private let eventLoop: any EventLoop
    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func deliver(_ batch: [Delivery]) {
        eventLoop.execute {
            for delivery in batch { delivery.receiver.receive(delivery.update) }
        }
    }
}
