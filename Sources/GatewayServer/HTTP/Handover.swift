import Glibc
import NIOCore

/// How a new process takes an old one's place without losing a connection.
package struct Handover: Sendable {
    /// Listening sockets that a service manager keeps over restarts; they are used in place of the configured ones.
    package var sockets: [Int32] = []
    /// Listen on addresses that another process of the gateway still has; that one is then told to end.
    package var takesOver = false

    package init() {}

    /// The sockets that systemd hands over (sd_listen_fds(3)): from descriptor 3 on, where they are meant for us.
    package init(environment: [String: String], takesOver: Bool) {
        self.takesOver = takesOver
        guard environment["LISTEN_PID"].flatMap({ Int32($0) }) == getpid(),
            let count = environment["LISTEN_FDS"].flatMap({ Int32($0) }), (1...64).contains(count)
        else { return }
        sockets = Array(3..<3 + count)
        for socket in sockets { _ = fcntl(socket, F_SETFD, FD_CLOEXEC) }
    }

    /// Several sockets may share a port; the kernel spreads connections over them, and those that wait in one that is
    /// closed are lost. So before it is closed, all new ones are sent to the second socket in the group, which is the
    /// newer process's. Where there is none, the kernel spreads as before.
    static func sendNewConnectionsToTheNewest(_ listener: any Channel) async {
        guard let options = listener as? any SocketOptionProvider else { return }
        // The classic BPF program `return 1`: the index of a socket in its group.
        let filter = UnsafeMutablePointer<ReuseportFilter>.allocate(capacity: 1)
        filter.initialize(to: ReuseportFilter(code: 0x06, jumpTrue: 0, jumpFalse: 0, value: 1))
        defer { filter.deallocate() }
        let program = ReuseportProgram(length: 1, filter: UInt(bitPattern: filter))
        let attachReuseportCBPF = NIOBSDSocket.Option(rawValue: 51)
        try? await options.unsafeSetSocketOption(level: .socket, name: attachReuseportCBPF, value: program).get()
    }

    /// Connections whose handshake is over wait in the socket until they are accepted, and are reset if it closes before.
    /// Returns when none was there for 50 ms, or after 2 s: where no newer process has the address, more may always come.
    static func waitUntilAllAreAccepted(_ listener: any Channel) async {
        let pause = Duration.milliseconds(10)
        var emptyLooks = 0
        for _ in 0..<200 {
            emptyLooks = await waitingConnections(listener) == 0 ? emptyLooks + 1 : 0
            if emptyLooks > 5 { return }
            try? await Task.sleep(for: pause)
        }
    }

    /// What the kernel tells of a TCP listener in `tcpi_unacked` (tcp_get_info in net/ipv4/tcp.c); 0 for other sockets.
    private static func waitingConnections(_ listener: any Channel) async -> UInt32 {
        guard let options = listener as? any SocketOptionProvider else { return 0 }
        let info: tcp_info? = try? await options.unsafeGetSocketOption(
            level: .tcp, name: NIOBSDSocket.Option(rawValue: TCP_INFO)
        ).get()
        return info?.tcpi_unacked ?? 0
    }
}

/// `struct sock_filter` of linux/filter.h.
private struct ReuseportFilter {
    var code: UInt16
    var jumpTrue: UInt8
    var jumpFalse: UInt8
    var value: UInt32
}

/// `struct sock_fprog`; the pointer as an integer, so that it may be handed to the channel's event loop.
private struct ReuseportProgram: Sendable {
    var length: UInt16
    var filter: UInt
}
