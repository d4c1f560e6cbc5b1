import CCurl
import Glibc

/// One HTTP request to make. Everything in it is immutable and may be shared by many transfers.
package final class TransferRequest: Sendable {
    package enum Method: Sendable { case get, post }
    let method: Method
    let target: TransferTarget
    let headers: HeaderList
    let body: RequestBody?
    let timers: TransferTimers

    package init(
        method: Method, target: TransferTarget, headers: HeaderList, body: RequestBody? = nil,
        timers: TransferTimers = TransferTimers()
    ) {
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.timers = timers
    }
}

/// Where a transfer goes; made once and shared by many. The host is kept apart so that the engine resolves it itself.
package final class TransferTarget: Sendable {
    /// A name or a numeric address, IPv6 without brackets.
    let host: String
    let port: Int
    /// In curl's own form: given as text, curl takes it apart and puts it together again for each transfer. Nil where curl
    /// cannot read it. Written in init only; curl reads it from its loop threads.
    nonisolated(unsafe) let url: OpaquePointer?
    /// Whether the host needs no look-up.
    let isNumeric: Bool
    /// Connects there in place of the host.
    let unixSocket: String?

    /// - Parameter path: path and query, starting with `/`.
    package init(isTLS: Bool, host: String, port: Int, path: String) {
        self.host = host
        self.port = port
        let authority = host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host
        url = Self.url("\(isTLS ? "https" : "http")://\(authority):\(port)\(path)")
        var v4 = in_addr()
        var v6 = in6_addr()
        isNumeric = inet_pton(AF_INET, host, &v4) == 1 || inet_pton(AF_INET6, host, &v6) == 1
        unixSocket = nil
    }

    /// A server on a Unix socket, which is asked as `localhost`.
    package init(unixSocket: String, path: String) {
        host = "localhost"
        port = 80
        url = Self.url("http://localhost\(path)")
        isNumeric = true
        self.unixSocket = unixSocket
    }

    private static func url(_ text: String) -> OpaquePointer? {
        let url = curl_url()
        if curl_url_set(url, CURLUPART_URL, text, UInt32(CURLU_PATH_AS_IS)) == CURLUE_OK { return url }
        curl_url_cleanup(url)
        return nil
    }

    deinit { curl_url_cleanup(url) }
}

/// How long each phase of a transfer may last, in nanoseconds of monotonic time; nil is without limit.
///
/// They are looked at with each reception of bytes, and to convert a `Duration` takes a division of 128 bits.
package struct TransferTimers: Sendable, Equatable {
    /// From start to a connection that is up, name look-up and TLS included.
    let connect: Int64?
    /// From the request on its way to the first byte of the reply.
    let firstByte: Int64?
    /// Between two receptions of bytes; frozen while the transfer is paused for its receiver.
    let idle: Int64?
    /// From start to end.
    let total: Int64?

    package init(
        connect: Duration? = nil, firstByte: Duration? = nil, idle: Duration? = nil, total: Duration? = nil
    ) {
        self.connect = connect?.nanoseconds
        self.firstByte = firstByte?.nanoseconds
        self.idle = idle?.nanoseconds
        self.total = total?.nanoseconds
    }
}

/// Header lines in curl's own form, built once and shared by many transfers.
package final class HeaderList: Sendable {
    // Written in init only; curl reads it from its loop threads.
    nonisolated(unsafe) let list: UnsafeMutablePointer<curl_slist>?

    /// - Returns: nil where a name or value holds CR, LF or NUL, which curl would send as it is.
    package init?(_ fields: [(name: String, value: String)]) {
        var list: UnsafeMutablePointer<curl_slist>?
        // Without this curl waits a second for `100 Continue` before it sends a larger body.
        list = curl_slist_append(list, "Expect:")
        for (name, value) in fields {
            guard !name.isEmpty, Self.isClean(name), Self.isClean(value) else {
                curl_slist_free_all(list)
                return nil
            }
            // curl removes a header that has no value; a semicolon in place of the colon sends it empty.
            list = curl_slist_append(list, value.isEmpty ? "\(name);" : "\(name): \(value)")
        }
        self.list = list
    }

    private static func isClean(_ text: String) -> Bool {
        text.utf8.allSatisfy { $0 != 0 && $0 != 10 && $0 != 13 }
    }

    deinit { curl_slist_free_all(list) }
}

/// A request body at a fixed address: curl does not copy it, and all attempts of a request share it.
package final class RequestBody: Sendable {
    // Written in init only.
    nonisolated(unsafe) let bytes: UnsafeMutableRawBufferPointer

    package init(copying source: UnsafeRawBufferPointer) {
        bytes = .allocate(byteCount: max(source.count, 1), alignment: 1)
        bytes.copyMemory(from: source)
        count = source.count
    }

    package let count: Int

    deinit { bytes.deallocate() }
}
