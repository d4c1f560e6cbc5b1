import CurlMulti
import NIOCore
import NIOPosix

/// Calls upstreams for one event loop, and never leaves it. The event loop's own thread makes the transfers, or the
/// engine's threads do: as `server.curl_loops` says.
final class LoopTransfers {
    private enum Way {
        case hosted(HostedLoop)
        case threads(LoopDelivery)
    }

    private let engine: CurlEngine
    private let eventLoop: any EventLoop
    private let way: Way
    /// What others have to make the hosted loop turn with; empty once it is closed.
    private let turning: NIOLoopBoundBox<HostedLoop?>

    /// Call on the event loop.
    init(_ engine: CurlEngine, eventLoop: any EventLoop) throws(CurlEngineError) {
        self.engine = engine
        self.eventLoop = eventLoop
        let turning = NIOLoopBoundBox<HostedLoop?>(nil, eventLoop: eventLoop)
        self.turning = turning
        if engine.hasThreads {
            way = .threads(LoopDelivery(eventLoop: eventLoop))
        } else {
            let loop = try engine.makeHostedLoop { eventLoop.execute { turning.value?.turn() } }
            turning.value = loop
            way = .hosted(loop)
        }
    }

    /// Has the event loop watch for what a hosted loop must do. Transfers that are started before begin after it.
    func open() -> EventLoopFuture<Void> {
        guard case .hosted(let loop) = way else { return eventLoop.makeSucceededVoidFuture() }
        let descriptor: Int32
        do {
            descriptor = try loop.makeDescriptor()
        } catch {
            return eventLoop.makeFailedFuture(error)
        }
        let turning = turning
        return NIOPipeBootstrap(group: eventLoop)
            .channelOption(.maxMessagesPerRead, value: 1)
            .channelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(TurnHandler(turning))
                }
            }
            .takingOwnershipOfDescriptor(input: descriptor)
            .map { _ in turning.value?.turn() }
    }

    /// The receiver is called on the event loop.
    func start(_ request: TransferRequest, receiver: any TransferReceiver) -> Transfer {
        switch way {
        case .hosted(let loop): loop.start(request, receiver: receiver)
        case .threads(let delivery): engine.start(request, receiver: receiver, on: delivery)
        }
    }

    /// Ends the transfers of a hosted loop.
    func close() {
        if case .hosted(let loop) = way { loop.close() }
        turning.value = nil
    }
}

/// Makes a hosted loop turn when its descriptor is readable.
private final class TurnHandler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let turning: NIOLoopBoundBox<HostedLoop?>

    init(_ turning: NIOLoopBoundBox<HostedLoop?>) { self.turning = turning }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var count = unwrapInboundIn(data)
        turning.value?.turn(counted: count.readInteger(endianness: .host, as: UInt64.self) ?? 0)
    }
}

/// Brings what a turn of a thread's loop produced to an event loop, in one task.
private final class LoopDelivery: DeliveryQueue {
    private let eventLoop: any EventLoop
    init(eventLoop: any EventLoop) { self.eventLoop = eventLoop }

    func deliver(_ batch: [Delivery]) {
        eventLoop.execute {
            for delivery in batch { delivery.receiver.receive(delivery.update) }
        }
    }
}
