import CCurl
import Glibc

/// One thread's libcurl: every `CURL*` and `CURLM*` of it lives here and nowhere else.
///
/// `curl_multi_socket_action` with our own level-triggered epoll: unlike `curl_multi_poll` it touches only the
/// transfers that are ready. <https://curl.se/libcurl/c/curl_multi_socket_action.html>
final class CurlLoop {
    private let mailbox: Mailbox
    private let configuration: CurlEngineConfiguration
    private let epoll: Int32
    private var multi: UnsafeMutableRawPointer
    private var transfers: [UInt64: ActiveTransfer] = [:]
    private var hosts = HostTable()
    private var outboxes: [(queue: any DeliveryQueue, batch: [Delivery])] = []
    private var dirty: [ActiveTransfer] = []
    /// Those of a named host that were opened, and the transfers they were opened for.
    private var openedFor: [curl_socket_t: UInt64] = [:]
    /// An address refused in this turn, and others are left.
    private var refused: [ActiveTransfer] = []
    /// What each descriptor in the epoll is watched for; zero where curl does not watch it at present.
    private var watched: [curl_socket_t: UInt32] = [:]
    private var spareHandles: [EasyHandle] = []
    /// Taken from the mailbox; those before `nextCommand` are done.
    private var commands: [Mailbox.Command] = []
    private var nextCommand = 0
    private var statistics = CurlEngineStatistics()
    /// When curl wants to be called; nil where it waits for sockets only.
    private var curlDeadline: Int64?
    /// No timer of ours fires before this; the true next one is found by a scan when it passes.
    private var nextScan: Int64 = .max
    /// When idle connections are too old for another transfer, should none start before.
    private var idleDeadline: Int64 = .max
    private var isRunning = true
    /// Read once a turn; within a turn time stands still.
    private(set) var now: Int64 = CurlLoop.clock()

    private static let eventsPerTurn = 64
    /// A new connection takes as long as eight events: a thousand of them at once would hold up every stream.
    private static let startsPerTurn = 16
    private static let maxSpareHandles = 64
    /// Of 4096 bytes each.
    private static let readsOfUnasked = 64

    init(mailbox: Mailbox, configuration: CurlEngineConfiguration, epoll: Int32) {
        self.mailbox = mailbox
        self.configuration = configuration
        self.epoll = epoll
        multi = curl_multi_init()
        configureMulti()
        // Edge-triggered: each write is one event, and nobody has to read the counter.
        _ = ccurl_epoll_control(epoll, EPOLL_CTL_ADD, mailbox.eventFD, EPOLLIN.rawValue | EPOLLET.rawValue)
    }

    private func configureMulti() {
        let context = Unmanaged.passUnretained(self).toOpaque()
        ccurl_multi_set_socket_callback(multi) { _, fd, what, context, _ in
            CurlLoop.from(context).watch(fd, what)
            return 0
        }
        ccurl_multi_set_pointer(multi, CURLMOPT_SOCKETDATA, context)
        ccurl_multi_set_timer_callback(multi) { _, milliseconds, context in
            // curl must not be called from here: only the deadline is noted.
            let loop = CurlLoop.from(context)
            loop.curlDeadline = milliseconds < 0 ? nil : loop.now + Int64(milliseconds) * 1_000_000
            return 0
        }
        ccurl_multi_set_pointer(multi, CURLMOPT_TIMERDATA, context)
        // The default shrinks with current use and would drop warm connections.
        ccurl_multi_set_long(multi, CURLMOPT_MAXCONNECTS, configuration.maxIdleConnections)
        ccurl_multi_set_long(multi, CURLMOPT_PIPELINING, 0)
    }

    deinit { close(epoll) }

    static func from(_ context: UnsafeMutableRawPointer?) -> CurlLoop {
        Unmanaged<CurlLoop>.fromOpaque(context!).takeUnretainedValue()
    }

    private static func clock() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    // MARK: The loop

    func run() {
        // Few at a time: the event loops go on with what a turn brought while the next one runs.
        var events = [epoll_event](repeating: epoll_event(), count: Self.eventsPerTurn)
        while isRunning {
            if nextCommand == commands.count {
                mailbox.take(into: &commands)
                nextCommand = 0
            }
            let ready = epoll_wait(epoll, &events, Int32(events.count), commands.isEmpty ? timeout() : 0)
            now = Self.clock()
            statistics.loopTurns += 1
            let count = Int(max(0, ready))
            for index in 0..<count where endUnwatched(events[index]) { events[index].events = 0 }
            performCommands()
            for event in events.prefix(count) where event.events != 0 { handle(event) }
            if let deadline = curlDeadline, deadline <= now { act(ccurl_socket_timeout, 0) }
            goOnAfterRefusals()
            if now >= nextScan { fireTimers() }
            collectFinished()
            mailbox.publish(statistics)
            flush()
        }
        endAll()
        spareHandles = []
        curl_multi_cleanup(multi)
    }

    /// Milliseconds to wait, rounded up so that a deadline has passed when the wait ends; -1 is for ever.
    private func timeout() -> Int32 {
        let next = min(curlDeadline ?? .max, nextScan)
        guard next != .max else { return -1 }
        return Int32(clamping: max(0, (next - Self.clock() + 999_999) / 1_000_000))
    }

    private func handle(_ event: epoll_event) {
        var event = event
        let fd = ccurl_epoll_fd(&event)
        if fd == mailbox.eventFD { return }  // it has done its work: the loop is awake
        var mask: Int32 = 0
        if event.events & (EPOLLIN.rawValue | EPOLLHUP.rawValue) != 0 { mask |= CURL_CSELECT_IN }
        if event.events & EPOLLOUT.rawValue != 0 { mask |= CURL_CSELECT_OUT }
        if event.events & EPOLLERR.rawValue != 0 { mask |= CURL_CSELECT_ERR }
        // One that has become idle in this turn is looked at in the next, before anything starts.
        guard let events = watched[fd], events != 0 else { return }
        act(fd, mask)
    }

    /// What comes on an idle connection is its end, or bytes that nobody asked for, which the next request must not take for
    /// its answer. curl looks with a peek when it wants to use the connection, and takes any byte, such as that of a TLS
    /// connection's proper end, for a sign of life: so they are read away, and the connection is shut down. That of a paused
    /// transfer is not watched either, but its bytes are wanted: curl asks for it again when the transfer goes on.
    /// - Returns: whether the event was of either kind. Called before any transfer starts.
    private func endUnwatched(_ event: epoll_event) -> Bool {
        var event = event
        let fd = ccurl_epoll_fd(&event)
        guard watched[fd] == 0 else { return false }
        _ = ccurl_epoll_control(epoll, EPOLL_CTL_DEL, fd, 0)
        watched[fd] = nil
        if mayBePaused(fd) { return true }
        withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { bytes in
            for _ in 0..<Self.readsOfUnasked {
                if recv(fd, bytes.baseAddress, bytes.count, Int32(MSG_DONTWAIT)) <= 0 { break }
            }
        }
        shutdown(fd, Int32(SHUT_RDWR))
        return true
    }

    /// Whether this may be the socket of a paused transfer. Nothing else tells: one that is used again and paused at once was
    /// never said to be watched.
    private func mayBePaused(_ fd: curl_socket_t) -> Bool {
        let port = ccurl_local_port(fd)
        return transfers.values.contains { transfer in
            guard transfer.isPaused, let own = transfer.easy?.localPort else { return false }
            return port <= 0 || own <= 0 || own == port
        }
    }

    private func act(_ fd: curl_socket_t, _ mask: Int32) {
        if fd == ccurl_socket_timeout { curlDeadline = nil }
        var running: Int32 = 0
        curl_multi_socket_action(multi, fd, mask, &running)
    }

    /// Applies what curl wants watched. A connection that goes idle stays in the epoll: it is mostly used again at
    /// once, for input, and then needs no system call at all.
    private func watch(_ fd: curl_socket_t, _ what: Int32) {
        let input = EPOLLIN.rawValue
        var events: UInt32 = 0
        if what != CURL_POLL_REMOVE {
            if what & CURL_POLL_IN != 0 { events |= input }
            if what & CURL_POLL_OUT != 0 { events |= EPOLLOUT.rawValue }
        }
        switch (watched[fd], events) {
        case (nil, 0): return
        case (nil, _): _ = ccurl_epoll_control(epoll, EPOLL_CTL_ADD, fd, events)
        case (input, 0), (0, input), (events, events): break
        case (_, 0): _ = ccurl_epoll_control(epoll, EPOLL_CTL_MOD, fd, input)
        case (_, _): _ = ccurl_epoll_control(epoll, EPOLL_CTL_MOD, fd, events)
        }
        watched[fd] = events
    }

    /// What was watched under this number was another socket, whose closing took it out of the epoll: of one that curl gives
    /// up while it is still connecting it tells nothing (7.88).
    func openSocket(_ address: UnsafePointer<curl_sockaddr>, for transfer: ActiveTransfer) -> curl_socket_t {
        let kind = address.pointee
        let fd = socket(kind.family, kind.socktype | Int32(SOCK_CLOEXEC.rawValue), kind.`protocol`)
        watched[fd] = nil
        openedFor[fd] = transfer.race == nil ? nil : transfer.id
        return fd
    }

    /// One that is still connecting is closed here only where it came to nothing by itself (see ``openSocket(_:for:)``).
    func closeSocket(_ fd: curl_socket_t) -> Int32 {
        noteRefusal(fd)
        return close(fd)
    }

    func noteRefusal(_ fd: curl_socket_t) {
        guard let id = openedFor.removeValue(forKey: fd), let transfer = transfers[id] else { return }
        if transfer.race?.refuse(fd) == true { refused.append(transfer) }
    }

    /// Where an address refuses curl makes the next one of its family ready, and asks for no call to open it (7.88).
    private func goOnAfterRefusals() {
        for transfer in refused where transfer.canOpenAnother { transfer.easy?.runSoon() }
        refused.removeAll(keepingCapacity: true)
    }

    // MARK: Commands

    /// In their order, up to some starts.
    private func performCommands() {
        var starts = 0
        while nextCommand < commands.count, starts < Self.startsPerTurn {
            if case .start = commands[nextCommand] { starts += 1 }
            perform(commands[nextCommand])
            nextCommand += 1
        }
    }

    private func perform(_ command: Mailbox.Command) {
        switch command {
        case .start(let id, let request, let receiver, let queue):
            start(id, request, receiver, queue)
        case .cancel(let id):
            if let transfer = transfers[id] { end(transfer, code: CURLE_OK, ownReason: .cancelled) }
        case .acknowledge(let id, let bytes):
            if let transfer = transfers[id], transfer.acknowledge(bytes), let easy = transfer.easy {
                schedule(transfer)
                curl_easy_pause(easy.curl, CURLPAUSE_CONT)
            }
        case .resolved(let host, let addresses):
            resolved(host, addresses)
        case .shutdown:
            isRunning = false
        }
    }

    private func start(
        _ id: UInt64, _ request: TransferRequest, _ receiver: any TransferReceiver, _ queue: any DeliveryQueue
    ) {
        let transfer = ActiveTransfer(
            id: id, request: request, receiver: receiver, outbox: outboxIndex(queue), phase: .connecting,
            configuration: configuration, loop: self)
        transfers[id] = transfer
        statistics.activeTransfers = transfers.count
        schedule(transfer)
        if request.target.isNumeric {
            launch(transfer)
            return
        }
        let host = request.target.host
        let (addresses, mustLookUp) = hosts.find(host, now: now)
        if mustLookUp { HostTable.start(host, by: configuration.lookUp, reportingTo: mailbox) }
        if addresses.isEmpty {
            transfer.phase = .resolving
        } else {
            launch(transfer, addresses: addresses)
        }
    }

    private func resolved(_ host: String, _ addresses: [String]) {
        hosts.finished(host, addresses: addresses, freshUntil: now + configuration.addressLifetime.nanoseconds)
        for transfer in transfers.values where transfer.phase == .resolving && transfer.request.target.host == host {
            if addresses.isEmpty {
                end(transfer, code: CURLE_COULDNT_RESOLVE_HOST, ownReason: nil)
            } else {
                transfer.phase = .connecting
                launch(transfer, addresses: addresses)
            }
        }
    }

    private func launch(_ transfer: ActiveTransfer, addresses: [String] = []) {
        guard let url = transfer.request.target.url else {
            end(transfer, code: CURLE_URL_MALFORMAT, ownReason: nil)
            return
        }
        guard let easy = spareHandles.popLast() ?? EasyHandle(maxIdleAge: configuration.maxIdleAge, loop: self) else {
            end(transfer, code: CURLE_OUT_OF_MEMORY, ownReason: nil)
            return
        }
        if !addresses.isEmpty {
            let target = transfer.request.target
            transfer.pin = HostTable.Pin(host: target.host, port: target.port, addresses: addresses)
            transfer.race = AddressRace(addresses, now: now)
            schedule(transfer)
        }
        transfer.easy = easy
        easy.configure(for: transfer, url: url, maxConnectionAge: configuration.maxConnectionAge)
        let added = curl_multi_add_handle(multi, easy.curl)
        if added != CURLM_OK { end(transfer, code: CURLE_FAILED_INIT, ownReason: nil) }
    }

    /// Nothing of the request has been sent yet. An address that is only slow to shake hands for TLS is not silent: it keeps
    /// all of the time.
    private func tryNextAddresses(_ transfer: ActiveTransfer) {
        guard let race = transfer.race, let easy = transfer.easy, easy.localPort <= 0 else {
            transfer.race?.settle()
            return
        }
        for (address, _) in race.waiting { noteSilence(of: address, of: transfer.request.target.host) }
        release(transfer)
        launch(transfer, addresses: race.untried)
    }

    /// The host's others are tried before this address from now on.
    func noteSilence(of address: String, of host: String) { hosts.noteSilence(of: address, of: host) }

    // MARK: Timers

    func schedule(_ transfer: ActiveTransfer) {
        if let deadline = transfer.deadline { nextScan = min(nextScan, deadline.at) }
        if let next = transfer.nextAddressAt { nextScan = min(nextScan, next) }
    }

    private func fireTimers() {
        nextScan = .max
        for transfer in transfers.values {
            if let deadline = transfer.deadline, deadline.at <= now {
                end(transfer, code: CURLE_OK, ownReason: deadline.reason)
                continue
            }
            if let next = transfer.nextAddressAt, next <= now { tryNextAddresses(transfer) }
            schedule(transfer)
        }
        guard transfers.isEmpty else { return }
        if idleDeadline <= now { closeIdleConnections() } else { nextScan = min(nextScan, idleDeadline) }
    }

    /// curl closes a connection that is too old, or that the upstream has ended, only when it looks for one; a loop that is
    /// called seldom would keep hundreds after a busy time. A multi handle's end is the only way to close them all; those
    /// that the upstream has ended are not even watched any more.
    private func closeIdleConnections() {
        idleDeadline = .max
        curl_multi_cleanup(multi)
        multi = curl_multi_init()
        configureMulti()
        watched = [:]
        openedFor = [:]
        curlDeadline = nil
    }

    // MARK: Ends

    private func collectFinished() {
        var left: Int32 = 0
        while let message = curl_multi_info_read(multi, &left) {
            guard message.pointee.msg == CURLMSG_DONE else { continue }
            let code = message.pointee.data.result
            var context: UnsafeMutableRawPointer?
            ccurl_get_pointer(message.pointee.easy_handle, CURLINFO_PRIVATE, &context)
            let transfer = Unmanaged<ActiveTransfer>.fromOpaque(context!).takeUnretainedValue()
            end(transfer, code: code, ownReason: nil)
        }
    }

    private func end(_ transfer: ActiveTransfer, code: CURLcode, ownReason: TransferFailure.Reason?) {
        guard transfers.removeValue(forKey: transfer.id) != nil else { return }
        mailbox.noteEnd()
        statistics.activeTransfers = transfers.count
        statistics.pauses += transfer.pauses
        let result = EasyHandle.result(of: transfer, code: code, ownReason: ownReason)
        release(transfer)
        transfer.update.end = result
        deliver(transfer)
        guard transfers.isEmpty else { return }
        idleDeadline = now + configuration.maxIdleAge.nanoseconds
        nextScan = min(nextScan, idleDeadline)
    }

    /// Takes the transfer from curl. In mid-transfer that closes its connection: the upstream learns that nobody listens.
    private func release(_ transfer: ActiveTransfer) {
        guard let easy = transfer.easy else { return }
        curl_multi_remove_handle(multi, easy.curl)
        easy.forgetTransfer()
        if spareHandles.count < Self.maxSpareHandles { spareHandles.append(easy) }
        transfer.easy = nil
    }

    private func endAll() {
        for transfer in transfers.values { end(transfer, code: CURLE_OK, ownReason: .cancelled) }
        flush()
        for case .start(_, _, let receiver, let queue) in commands[nextCommand...] + mailbox.close() {
            queue.deliver([Delivery(receiver: receiver, update: TransferUpdate(end: .endedBeforeStart))])
        }
    }

    // MARK: Deliveries

    private func outboxIndex(_ queue: any DeliveryQueue) -> Int {
        if let index = outboxes.firstIndex(where: { $0.queue === queue }) { return index }
        outboxes.append((queue, []))
        return outboxes.count - 1
    }

    /// Called from curl's callbacks: there is something to deliver at the end of this turn.
    func markDirty(_ transfer: ActiveTransfer) {
        schedule(transfer)
        guard !transfer.isDirty else { return }
        transfer.isDirty = true
        dirty.append(transfer)
    }

    private func deliver(_ transfer: ActiveTransfer) {
        transfer.isDirty = false
        outboxes[transfer.outbox].batch.append(Delivery(receiver: transfer.receiver, update: transfer.takeUpdate()))
    }

    private func flush() {
        for transfer in dirty where transfer.isDirty { deliver(transfer) }
        dirty.removeAll(keepingCapacity: true)
        for index in outboxes.indices where !outboxes[index].batch.isEmpty {
            let batch = outboxes[index].batch
            outboxes[index].batch = []
            // The next turn will most likely bring about as much.
            outboxes[index].batch.reserveCapacity(min(batch.count, Self.eventsPerTurn))
            outboxes[index].queue.deliver(batch)
        }
    }
}
