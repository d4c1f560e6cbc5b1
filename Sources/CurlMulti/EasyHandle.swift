import CCurl
import Glibc

/// One of curl's easy handles, owned. Loop thread only.
final class EasyHandle {
    let curl: UnsafeMutableRawPointer
    /// curl writes here what went wrong, in words.
    private let message = UnsafeMutablePointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))

    /// A handle with everything that all transfers of a loop share. It is used again without a reset: setting all of
    /// it for each transfer costs as much as curl's own work on a small one.
    /// - Returns: nil where memory has run out.
    init?(maxIdleAge: Duration, loop: CurlLoop) {
        guard let curl = curl_easy_init() else {
            message.deallocate()
            return nil
        }
        self.curl = curl
        message.initialize(repeating: 0, count: Int(CURL_ERROR_SIZE))
        ccurl_set_pointer(curl, CURLOPT_ERRORBUFFER, message)
        // Proxies of the environment would be honoured otherwise.
        ccurl_set_string(curl, CURLOPT_PROXY, "")
        ccurl_set_string(curl, CURLOPT_NOPROXY, "*")
        ccurl_set_string(curl, CURLOPT_PROTOCOLS_STR, "http,https")
        ccurl_set_long(curl, CURLOPT_FOLLOWLOCATION, 0)
        // A paused HTTP/2 stream buffers megabytes.
        ccurl_set_long(curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1)
        ccurl_set_long(curl, CURLOPT_NOSIGNAL, 1)
        ccurl_set_long(curl, CURLOPT_TCP_NODELAY, 1)
        ccurl_set_long(curl, CURLOPT_TCP_KEEPALIVE, 1)
        ccurl_set_long(curl, CURLOPT_MAXAGE_CONN, Int(max(1, maxIdleAge.components.seconds)))
        // A connect timer of its own would fire before ours and under another name.
        ccurl_set_long(curl, CURLOPT_CONNECTTIMEOUT_MS, 3_600_000)
        // With a folder of certificates, Debian's default, curl keeps no store of them: it would read all of them, tens of
        // milliseconds on the loop, for each connection.
        ccurl_set_string(curl, CURLOPT_CAPATH, nil)
        if let file = Self.certificateFile { ccurl_set_string(curl, CURLOPT_CAINFO, file) }
        // Never waits for the resolver's thread, should curl ever start one.
        ccurl_set_long(curl, CURLOPT_QUICK_EXIT, 1)
        // Every transfer has one of its own: a thousand streams of small pieces should not cost 16 MiB.
        ccurl_set_long(curl, CURLOPT_BUFFERSIZE, 8 << 10)
        ccurl_set_data_callback(curl, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
            let body = UnsafeRawBufferPointer(start: bytes, count: size * count)
            return ActiveTransfer.from(context).receiveBody(body) ? body.count : ccurl_write_pause
        }
        ccurl_set_data_callback(curl, CURLOPT_HEADERFUNCTION) { bytes, size, count, context in
            let line = UnsafeRawBufferPointer(start: bytes, count: size * count)
            return ActiveTransfer.from(context).receiveHeader(line) ? line.count : 0
        }
        ccurl_set_prereq_callback(curl) { context, address, _, _, _ in
            ActiveTransfer.from(context).mayContinueToSend(to: address)
                ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT
        }
        ccurl_set_open_callback(curl) { context, _, address in
            ActiveTransfer.from(context).openSocket(address!)
        }
        ccurl_set_close_callback(curl) { context, fd in CurlLoop.from(context).closeSocket(fd) }
        // Connections outlive the transfers that opened them, but not the loop.
        ccurl_set_pointer(curl, CURLOPT_CLOSESOCKETDATA, Unmanaged.passUnretained(loop).toOpaque())
    }

    deinit {
        curl_easy_cleanup(curl)
        message.deallocate()
    }

    /// Certificates of those that sign servers' ones, as other TLS clients take them; nil is the system's.
    private static let certificateFile = getenv("SSL_CERT_FILE").map { String(cString: $0) }.flatMap {
        $0.isEmpty ? nil : $0
    }

    /// Sets what differs between transfers: all of it, since the handle may have served another one.
    func configure(for transfer: ActiveTransfer, url: OpaquePointer, maxConnectionAge: Duration) {
        message[0] = 0
        ccurl_set_long(curl, CURLOPT_FORBID_REUSE, 0)
        let request = transfer.request
        ccurl_set_url(curl, url)
        ccurl_set_string(curl, CURLOPT_UNIX_SOCKET_PATH, request.target.unixSocket)
        switch request.method {
        case .get:
            ccurl_set_long(curl, CURLOPT_HTTPGET, 1)
        case .post:
            ccurl_set_long(curl, CURLOPT_POST, 1)
            ccurl_set_size(curl, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(request.body?.count ?? 0))
            ccurl_set_pointer(curl, CURLOPT_POSTFIELDS, UnsafeRawPointer(request.body?.bytes.baseAddress ?? Self.empty))
        }
        ccurl_set_list(curl, CURLOPT_HTTPHEADER, request.headers.list)
        ccurl_set_list(curl, CURLOPT_RESOLVE, transfer.pin?.list)
        let age = transfer.pin == nil ? 0 : max(1, maxConnectionAge.components.seconds)  // 0 is without limit
        ccurl_set_long(curl, CURLOPT_MAXLIFETIME_CONN, Int(age))
        let context = Unmanaged.passUnretained(transfer).toOpaque()
        ccurl_set_pointer(curl, CURLOPT_PRIVATE, context)
        ccurl_set_pointer(curl, CURLOPT_WRITEDATA, context)
        ccurl_set_pointer(curl, CURLOPT_HEADERDATA, context)
        ccurl_set_pointer(curl, CURLOPT_PREREQDATA, context)
        ccurl_set_pointer(curl, CURLOPT_OPENSOCKETDATA, context)
    }

    /// Lets curl look at the transfer soon, though no socket and no timer of it asks for that. A pause that begins or ends
    /// is all that has this effect; this one is over before curl looks.
    func runSoon() {
        curl_easy_pause(curl, CURLPAUSE_RECV)
        curl_easy_pause(curl, CURLPAUSE_CONT)
    }

    /// Lets the present transfer's connection end with it.
    func forbidReuse() { ccurl_set_long(curl, CURLOPT_FORBID_REUSE, 1) }

    /// The transfer may be gone before curl has another one.
    func forgetTransfer() { ccurl_set_pointer(curl, CURLOPT_PRIVATE, nil) }

    // A POST without a body still needs an address, or curl reads its body from standard input. Nobody reads or writes there.
    nonisolated(unsafe) private static let empty = UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)

    /// - Parameter ownReason: why we ended it; nil where curl did.
    static func result(
        of transfer: ActiveTransfer, code: CURLcode, ownReason: TransferFailure.Reason?
    ) -> TransferResult {
        let easy = transfer.easy
        var result = TransferResult(failure: nil, connectTime: easy?.connectTime ?? .zero)
        if let reason = ownReason ?? transfer.abortReason {
            // The replay that was stopped: without a byte sent the first time, the pooled connection was stale.
            let isStale = reason == .noReply && easy?.requestSize == 0
            result.failure = TransferFailure(reason: isStale ? .staleConnection : reason)
        } else if code != CURLE_OK {
            let words = easy?.words ?? String(cString: curl_easy_strerror(code))
            result.failure = TransferFailure(reason: reason(code, transfer), detail: words)
        }
        return result
    }

    /// Until the connection was up.
    var connectTime: Duration {
        var value: curl_off_t = 0
        ccurl_get_size(curl, CURLINFO_PRETRANSFER_TIME_T, &value)
        return .microseconds(Int64(value))
    }

    /// Our end of its connection; not positive where it has none, as before the upstream has taken it.
    var localPort: Int {
        var port = 0
        ccurl_get_long(curl, CURLINFO_LOCAL_PORT, &port)
        return port
    }

    /// Bytes of the request that were sent.
    private var requestSize: Int {
        var size = 0
        ccurl_get_long(curl, CURLINFO_REQUEST_SIZE, &size)
        return size
    }

    /// curl's own words for the last transfer's failure; nil where it found none.
    private var words: String? {
        message[0] == 0 ? nil : String(String(cString: message).prefix(200))
    }

    private static func reason(_ code: CURLcode, _ transfer: ActiveTransfer) -> TransferFailure.Reason {
        switch code {
        case CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY: .resolve
        case CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT, CURLE_INTERFACE_FAILED: .connect
        case CURLE_SSL_CONNECT_ERROR, CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CERTPROBLEM, CURLE_SSL_CIPHER,
            CURLE_SSL_CACERT_BADFILE, CURLE_SSL_ISSUER_ERROR, CURLE_SSL_INVALIDCERTSTATUS:
            .tls
        case CURLE_OUT_OF_MEMORY where transfer.wasAnswered: .headTooLarge
        case CURLE_OUT_OF_MEMORY, CURLE_FAILED_INIT, CURLE_BAD_FUNCTION_ARGUMENT: .engine
        case CURLE_GOT_NOTHING, CURLE_SEND_ERROR, CURLE_RECV_ERROR: transfer.wasAnswered ? .cut : .noReply
        case CURLE_PARTIAL_FILE: .cut
        default: transfer.phase == .connecting ? .connect : .protocolError
        }
    }
}

extension ActiveTransfer {
    fileprivate static func from(_ context: UnsafeMutableRawPointer?) -> ActiveTransfer {
        Unmanaged<ActiveTransfer>.fromOpaque(context!).takeUnretainedValue()
    }
}
