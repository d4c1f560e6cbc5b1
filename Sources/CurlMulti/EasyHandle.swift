import CCurl
import Glibc

/// Setting up curl's easy handles, and reading how they ended.
enum EasyHandle {
    /// A handle with everything that all transfers of a loop share. It is used again without a reset: setting all of
    /// it for each transfer costs as much as curl's own work on a small one.
    static func make(maxIdleAge: Duration, loop: CurlLoop) -> UnsafeMutableRawPointer? {
        guard let easy = curl_easy_init() else { return nil }
        // Proxies of the environment would be honoured otherwise.
        ccurl_set_string(easy, CURLOPT_PROXY, "")
        ccurl_set_string(easy, CURLOPT_PROTOCOLS_STR, "http,https")
        ccurl_set_long(easy, CURLOPT_FOLLOWLOCATION, 0)
        ccurl_set_long(easy, CURLOPT_PATH_AS_IS, 1)
        // A paused HTTP/2 stream buffers megabytes.
        ccurl_set_long(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1)
        ccurl_set_long(easy, CURLOPT_NOSIGNAL, 1)
        ccurl_set_long(easy, CURLOPT_TCP_NODELAY, 1)
        ccurl_set_long(easy, CURLOPT_TCP_KEEPALIVE, 1)
        ccurl_set_long(easy, CURLOPT_MAXAGE_CONN, Int(max(1, maxIdleAge.components.seconds)))
        // A connect timer of its own would fire before ours and under another name.
        ccurl_set_long(easy, CURLOPT_CONNECTTIMEOUT_MS, 3_600_000)
        // Never waits for the resolver's thread, should curl ever start one.
        ccurl_set_long(easy, CURLOPT_QUICK_EXIT, 1)
        // Every transfer has one of its own: a thousand streams of small pieces should not cost 16 MiB.
        ccurl_set_long(easy, CURLOPT_BUFFERSIZE, 8 << 10)
        ccurl_set_data_callback(easy, CURLOPT_WRITEFUNCTION) { bytes, size, count, context in
            let body = UnsafeRawBufferPointer(start: bytes, count: size * count)
            return ActiveTransfer.from(context).receiveBody(body) ? body.count : ccurl_write_pause
        }
        ccurl_set_data_callback(easy, CURLOPT_HEADERFUNCTION) { bytes, size, count, context in
            let line = UnsafeRawBufferPointer(start: bytes, count: size * count)
            return ActiveTransfer.from(context).receiveHeader(line) ? line.count : 0
        }
        ccurl_set_prereq_callback(easy) { context, _, _, _, _ in
            ActiveTransfer.from(context).mayContinueToSend() ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT
        }
        ccurl_set_pointer(easy, CURLOPT_OPENSOCKETDATA, Unmanaged.passUnretained(loop).toOpaque())
        ccurl_set_open_callback(easy) { context, _, address in
            Unmanaged<CurlLoop>.fromOpaque(context!).takeUnretainedValue().openSocket(address!.pointee)
        }
        return easy
    }

    /// Sets what differs between transfers: all of it, since the handle may have served another one.
    static func configure(_ easy: UnsafeMutableRawPointer, for transfer: ActiveTransfer) {
        let request = transfer.request
        ccurl_set_string(easy, CURLOPT_URL, request.target.url)
        switch request.method {
        case .get:
            ccurl_set_long(easy, CURLOPT_HTTPGET, 1)
        case .post:
            ccurl_set_long(easy, CURLOPT_POST, 1)
            ccurl_set_size(easy, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(request.body?.count ?? 0))
            ccurl_set_pointer(easy, CURLOPT_POSTFIELDS, UnsafeRawPointer(request.body?.bytes.baseAddress ?? empty))
        }
        ccurl_set_list(easy, CURLOPT_HTTPHEADER, request.headers.list)
        ccurl_set_list(easy, CURLOPT_RESOLVE, transfer.pin?.list)
        let context = Unmanaged.passUnretained(transfer).toOpaque()
        ccurl_set_pointer(easy, CURLOPT_PRIVATE, context)
        ccurl_set_pointer(easy, CURLOPT_WRITEDATA, context)
        ccurl_set_pointer(easy, CURLOPT_HEADERDATA, context)
        ccurl_set_pointer(easy, CURLOPT_PREREQDATA, context)
    }

    // A POST without a body still needs an address, or curl reads its body from standard input. Nobody reads or writes there.
    nonisolated(unsafe) private static let empty = UnsafeMutableRawPointer.allocate(byteCount: 1, alignment: 1)

    static func result(
        of transfer: ActiveTransfer, code: CURLcode, ownReason: TransferFailure.Reason?, now: Int64
    ) -> TransferResult {
        var result = TransferResult(
            failure: nil, connectTime: .zero, firstByteTime: .zero, totalTime: .nanoseconds(now - transfer.started),
            bytesReceived: 0, isReusedConnection: false)
        var requestSize = 0
        if let easy = transfer.easy {
            var connections = 0
            ccurl_get_long(easy, CURLINFO_NUM_CONNECTS, &connections)
            ccurl_get_long(easy, CURLINFO_REQUEST_SIZE, &requestSize)
            result.isReusedConnection = connections == 0 && transfer.phase != .connecting
            result.connectTime = connectTime(easy)
            result.firstByteTime = microseconds(easy, CURLINFO_STARTTRANSFER_TIME_T)
            var received: curl_off_t = 0
            ccurl_get_size(easy, CURLINFO_SIZE_DOWNLOAD_T, &received)
            result.bytesReceived = Int(received)
        }
        if let reason = ownReason ?? transfer.abortReason {
            // The replay that was stopped: without a byte sent the first time, the pooled connection was stale.
            let isStale = reason == .noReply && requestSize == 0
            result.failure = TransferFailure(reason: isStale ? .staleConnection : reason, curlCode: 0, detail: "")
        } else if code != CURLE_OK {
            result.failure = failure(code, transfer)
        }
        return result
    }

    /// Until the connection was up.
    static func connectTime(_ easy: UnsafeMutableRawPointer) -> Duration {
        microseconds(easy, CURLINFO_PRETRANSFER_TIME_T)
    }

    private static func microseconds(_ easy: UnsafeMutableRawPointer, _ info: CURLINFO) -> Duration {
        var value: curl_off_t = 0
        ccurl_get_size(easy, info, &value)
        return .microseconds(Int64(value))
    }

    private static func failure(_ code: CURLcode, _ transfer: ActiveTransfer) -> TransferFailure {
        let reason: TransferFailure.Reason =
            switch code {
            case CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_RESOLVE_PROXY: .resolve
            case CURLE_COULDNT_CONNECT, CURLE_OPERATION_TIMEDOUT, CURLE_INTERFACE_FAILED: .connect
            case CURLE_SSL_CONNECT_ERROR, CURLE_PEER_FAILED_VERIFICATION, CURLE_SSL_CERTPROBLEM, CURLE_SSL_CIPHER,
                CURLE_SSL_CACERT_BADFILE, CURLE_SSL_ISSUER_ERROR, CURLE_SSL_INVALIDCERTSTATUS:
                .tls
            case CURLE_OUT_OF_MEMORY where transfer.wasAnswered: .headTooLarge
            case CURLE_OUT_OF_MEMORY, CURLE_FAILED_INIT, CURLE_BAD_FUNCTION_ARGUMENT: .engine
            case CURLE_GOT_NOTHING, CURLE_SEND_ERROR: transfer.wasAnswered ? .cut : .noReply
            case CURLE_PARTIAL_FILE: .cut
            case CURLE_RECV_ERROR: transfer.wasAnswered ? .cut : .noReply
            default: transfer.phase == .connecting ? .connect : .protocolError
            }
        let detail = String(String(cString: curl_easy_strerror(code)).prefix(200))
        return TransferFailure(reason: reason, curlCode: code.rawValue, detail: detail)
    }
}

extension ActiveTransfer {
    fileprivate static func from(_ context: UnsafeMutableRawPointer?) -> ActiveTransfer {
        Unmanaged<ActiveTransfer>.fromOpaque(context!).takeUnretainedValue()
    }
}
