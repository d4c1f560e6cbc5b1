import GatewayCore
import Glibc
import NIOCore

/// The file of a Unix socket that the gateway listens on. It is made under a name of its own and then moved to its path,
/// so that the path leads to one that listens at any time; and it is removed only while no newer one has its place.
struct UnixSocketFile: Sendable {
    let address: SocketAddress
    private let temporary: String
    private let device: dev_t
    private let inode: ino_t

    /// Makes a socket that listens, for a path where it is not yet: see ``publish()``.
    /// - Parameter takesOver: whether a process that listens there is to be replaced.
    /// - Throws: `IOError`, with `EADDRINUSE` where a process listens there.
    static func listen(
        at path: String, takesOver: Bool
    ) throws -> (descriptor: NIOBSDSocket.Handle, file: UnixSocketFile) {
        try checkFree(path, takesOver: takesOver)
        let descriptor = try makeSocket()
        let temporary = ListenAddress.temporaryPath(of: path, process: getpid())
        do {
            unlink(temporary)  // of an earlier process with this number
            try bind(descriptor, temporary)
            try check(Glibc.listen(descriptor, 1024), "listen")
            let status = try Self.status(temporary)
            let file = UnixSocketFile(
                address: try SocketAddress(unixDomainSocketPath: path), temporary: temporary, device: status.st_dev,
                inode: status.st_ino)
            return (descriptor, file)
        } catch {
            close(descriptor)
            unlink(temporary)
            throw error
        }
    }

    private var path: String { address.pathname ?? "" }

    /// Moves it to its path, in the place of an older one: when nothing can fail any more.
    func publish() throws {
        do {
            try Self.check(rename(temporary, path), "rename")
        } catch let error as IOError {
            throw GatewayError("cannot listen on unix:\(path): \(String(cString: strerror(error.errnoCode)))")
        }
    }

    func remove() {
        for path in [temporary, path] {
            guard let status = try? Self.status(path), status.st_dev == device, status.st_ino == inode else { continue }
            unlink(path)
        }
    }

    /// A file that an earlier process left is no hindrance; one that somebody listens at, or that is no socket, is.
    private static func checkFree(_ path: String, takesOver: Bool) throws {
        do {
            guard try status(path).st_mode & S_IFMT == S_IFSOCK else {
                throw GatewayError("a file that is no socket has this name")
            }
        } catch let error as IOError where error.errnoCode == ENOENT {
            return
        }
        guard !takesOver else { return }
        let descriptor = try makeSocket()
        defer { close(descriptor) }
        do {
            try SocketAddress(unixDomainSocketPath: path).withSockAddr { address, size in
                try check(connect(descriptor, address, socklen_t(size)), "connect")
            }
        } catch let error as IOError where error.errnoCode == ECONNREFUSED {
            return
        } catch let error as IOError where error.errnoCode == EAGAIN {
            // Its queue is full.
        }
        throw IOError(errnoCode: EADDRINUSE, reason: "bind")
    }

    private static func makeSocket() throws -> CInt {
        let type = CInt(bitPattern: SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let descriptor = socket(AF_UNIX, type, 0)
        try check(descriptor, "socket")
        return descriptor
    }

    private static func bind(_ descriptor: CInt, _ path: String) throws {
        try SocketAddress(unixDomainSocketPath: path).withSockAddr { address, size in
            try check(Glibc.bind(descriptor, address, socklen_t(size)), "bind")
        }
    }

    private static func status(_ path: String) throws -> stat {
        var status = stat()
        try check(lstat(path, &status), "lstat")
        return status
    }

    private static func check(_ result: CInt, _ call: String) throws {
        if result < 0 { throw IOError(errnoCode: errno, reason: call) }
    }
}
