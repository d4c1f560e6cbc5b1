import GatewayCore
import GatewayWire
import NIOCore

/// The WebLLM routes that are answered from what the gateway knows.
enum WebLLMReplies {
    static func health(_ call: Routes.Call) -> Reply {
        let statuses = call.gateway.upstreamStatuses()
        return .object { writer in
            writer.field("status", call.gateway.healthSummary(statuses).health)
            writer.field("service", "webllm")
            writer.field("timestamp", Timestamp.now)
            writer.field("models_loaded", modelCount(statuses))
        }
    }

    static func status(_ call: Routes.Call) -> Reply {
        let statuses = call.gateway.upstreamStatuses()
        let totals = call.gateway.history.totals().totals
        return .object { writer in
            writer.field("status", call.gateway.healthSummary(statuses).status)
            writer.field("timestamp", Timestamp.now)
            writer.field("service", "webllm")
            writer.field("models_configured", call.snapshot.configuration.models.count)
            writer.field("models_loaded", modelCount(statuses))
            writer.field("total_inferences", totals.inferences)
            writer.field("average_inference_time_ms", totals.averageTime)
        }
    }

    /// Models that the healthy upstreams report, each once.
    private static func modelCount(_ statuses: [UpstreamStatus]) -> Int {
        Set(statuses.filter(\.isAvailable).flatMap(\.installed).map { Array($0.utf8) }).count
    }

    static func models(_ call: Routes.Call) throws(RequestRefusal) -> Reply {
        let configuration = call.snapshot.configuration
        let onlyRecommended = try call.request.query?.queryValue("recommended")?.lowercased() == "true"
        let models = configuration.models.filter { $0.recommended || !onlyRecommended }
        return .object { writer in
            writer.key("models")
            writer.beginArray()
            for model in models { writer.model(model) }
            writer.endArray()
            writer.field("default_model", configuration.webllm.defaultModel)
            writer.field("count", models.count)
        }
    }

    static func modelInfo(_ call: Routes.Call) throws(RequestRefusal) -> Reply {
        guard let key = try call.request.query?.queryValue("model"), !key.isEmpty else {
            return .error(400, "Missing 'model' query parameter")
        }
        guard let model = call.snapshot.configuration.models.first(where: { $0.key.utf8.elementsEqual(key.utf8) })
        else {
            return .error(404, "Model \(key) not found")
        }
        var writer = JSONWriter()
        writer.model(model)
        return Reply(ReplyHead(200), body: writer.buffer)
    }

    static func setModelSettings(_ call: Routes.Call) -> Reply {
        do throws(RequestFault) {
            let settings = try WebLLMReader.modelSettings(call.body, parser: call.loop.parser)
            guard call.gateway.store(settings) else {
                return .error(400, "Too many models have settings; at most \(Gateway.maxModelSettings) can")
            }
            return .object { writer in
                writer.field("status", "configured")
                writer.field("model_type", settings.modelType)
                writer.key("config")
                writer.settings(settings, defaultModel: call.snapshot.configuration.webllm.defaultModel)
            }
        } catch {
            return .error(400, error.message)
        }
    }

    static func modelSettings(_ call: Routes.Call) -> Reply {
        guard let settings = call.gateway.settings(for: call.rest) else {
            return .error(404, "No configuration for model \(call.rest)")
        }
        var writer = JSONWriter()
        writer.settings(settings, defaultModel: call.snapshot.configuration.webllm.defaultModel)
        return Reply(ReplyHead(200), body: writer.buffer)
    }

    static func metrics(_ call: Routes.Call) -> Reply {
        let (totals, historyCount) = call.gateway.history.totals()
        return .object { writer in
            writer.field("timestamp", Timestamp.now)
            writer.field("inference_history_count", historyCount)
            writer.key("metrics")
            writer.beginObject()
            writer.field("total_inferences", totals.inferences)
            writer.field("total_tokens", totals.tokens)
            writer.field("total_time_ms", totals.time)
            writer.field("average_inference_time", totals.averageTime)
            writer.field("client_side_count", totals.clientSide)
            writer.field("server_side_count", totals.serverSide)
            writer.endObject()
        }
    }

    static func history(_ call: Routes.Call) throws(RequestRefusal) -> Reply {
        let limit = try call.request.query?.queryValue("limit").flatMap(wholeNumber) ?? 10
        guard limit >= 0 else { return .error(400, "limit must not be negative") }
        let entries = call.gateway.history.recent(limit)
        return .object { writer in
            writer.field("count", entries.count)
            writer.key("history")
            writer.beginArray()
            for entry in entries { writer.history(entry) }
            writer.endArray()
        }
    }

    /// As the Python endpoint read it: with white space around it, and of any length.
    private static func wholeNumber(_ text: String) -> Int? {
        guard let (_, sign, digits) = text.wholeMatch(of: /\s*([+-]?)([0-9]+)\s*/)?.output else { return nil }
        return Int(sign + digits) ?? (sign == "-" ? .min : .max)
    }

    static func clear(_ call: Routes.Call) -> Reply {
        // It takes no body, so a page of any site could send it through a browser of this network.
        guard call.request.isFromOwnOrigin || call.request.isSameOriginFetch else {
            return .error(403, "Requests from other sites are not accepted")
        }
        call.gateway.history.clear()
        return .object { writer in
            writer.field("status", "cleared")
            writer.field("timestamp", Timestamp.now)
        }
    }
}

extension JSONWriter {
    fileprivate mutating func history(_ request: StoredRequest) {
        beginObject()
        field("request_id", request.requestID)
        field("text", request.text ?? "")
        field("tokens_generated", request.tokensOut)
        field("inference_time_ms", request.inference)
        field("mode", request.mode)
        field("model_id", request.model)
        field("success", request.isSuccess)
        field("error", request.error)
        field("timestamp", Timestamp(microseconds: request.id))
        endObject()
    }
}
