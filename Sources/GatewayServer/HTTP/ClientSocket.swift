import Glibc
import NIOCore

/// The socket of a client's connection, written to without its channel. To be used on the channel's event loop, and only
/// while the channel keeps nothing back: else bytes would overtake others.
struct ClientSocket {
    private let channel: any Channel
    /// Belongs to the channel: where that is closed, the number may be another connection's.
    let descriptor: NIOBSDSocket.Handle?

    init(_ channel: any Channel) {
        self.channel = channel
        // What `withUnsafeTransportIfAvailable` does, without a cast that takes 15 000 instructions.
        descriptor = (channel._channelCore as? any NIOTransportAccessibleChannelCore).flatMap {
            Self.descriptor(of: $0)
        }
    }

    private static func descriptor(of core: some NIOTransportAccessibleChannelCore) -> NIOBSDSocket.Handle? {
        try? core.withUnsafeTransport { $0 as? NIOBSDSocket.Handle }
    }

    /// Bytes that were sent and that the client's system has not acknowledged, those not yet on their way included.
    var unacknowledged: Int {
        guard let descriptor, channel.isActive else { return 0 }
        var bytes: Int32 = 0
        let outQueue = UInt(TIOCOUTQ)  // SIOCOUTQ of tcp(7) and unix(7)
        return ioctl(descriptor, outQueue, &bytes) == 0 ? Int(bytes) : 0
    }

    /// - Returns: how many of the bytes the socket took. What keeps it from more (it is full, or broken) shows when the
    ///   channel writes the rest.
    func send(_ bytes: ByteBuffer) -> Int {
        guard let descriptor, channel.isActive else { return 0 }
        return bytes.withUnsafeReadableBytes {
            max(0, Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)))
        }
    }
}
