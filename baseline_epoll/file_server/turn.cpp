// What one connection gets in one turn: its requests taken, their files read, their answers sent.
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "baseline_epoll/file_server/server.hpp"
#include "servers/common/error_class.hpp"

namespace file_server {
namespace {

constexpr std::uint64_t turn_bytes = 256 << 10;
constexpr std::uint64_t turn_requests = 64;

}  // namespace

void Server::serve(Connection& c) {
  c.last_active = now_;
  if (c.phase == Phase::lingering) return discard(c);
  const std::uint64_t last_byte = counters_.bytes_out + turn_bytes;
  const std::uint64_t last_request = counters_.requests + turn_requests;
  for (;;) {
    bool moved = take_requests(c);
    if (c.phase == Phase::open && options_.io != Io::sendfile) moved |= start_reads(c);
    if (c.phase == Phase::open) moved |= send_ready(c);
    if (c.phase != Phase::open) return;
    if (!moved) return rest(c);
    if (counters_.bytes_out >= last_byte || counters_.requests >= last_request) return make_ready(c);
  }
}

// Nothing moves. It waits for a read, for its peer or for a buffer; or it is over.
void Server::rest(Connection& c) {
  if (c.count > 0) return;
  if (c.finished) return close(c);
  if (c.ending || (!stop_.serving() && !c.is_unfinished())) begin_lingering(c);
}

// ---- Requests ----

bool Server::take_requests(Connection& c) {
  bool any = false;
  bool fresh = false;
  std::span<const std::byte> input = std::span<const std::byte>(c.unparsed).subspan(c.unparsed_at);
  for (;;) {
    while (!input.empty() && c.has_room()) {
      common::Request request;
      const auto [used, complete] = c.parser.consume(input, request, text_);
      input = input.subspan(used);
      if (complete) answer(c, request);
      any |= complete;
    }
    const bool wanted = stop_.serving() || c.parser.started();
    if (!c.has_room() || !c.readable || c.finished || !wanted) break;
    input = receive(c);
    if (input.empty()) break;
    fresh = true;
  }
  if (c.phase != Phase::open) return true;
  if (c.ending) input = {};
  if (fresh) c.unparsed.assign(input.begin(), input.end());
  c.unparsed_at = fresh ? 0 : c.unparsed.size() - input.size();
  return any;
}

// What came, in the buffer that all connections share; nothing if nothing came, or the end.
std::span<const std::byte> Server::receive(Connection& c) {
  ++counters_.syscalls;
  const ::ssize_t bytes = ::recv(c.fd, input_.data(), input_.size(), 0);
  if (bytes > 0) {
    const auto size = static_cast<std::size_t>(bytes);
    counters_.bytes_in += size;
    if (size < input_.size() && !c.hung_up) c.readable = false;
    return {input_.data(), size};
  }
  c.readable = false;
  c.finished = bytes == 0;
  if (bytes < 0 && errno != EAGAIN) fail(c);
  return {};
}

// A lingering close: what still comes is thrown away, until it ends or patience does.
void Server::discard(Connection& c) {
  while (c.readable && !c.lingering->is_over(now_)) {
    const std::size_t size = receive(c).size();
    if (c.phase == Phase::closed) return;
    c.lingering->discarded(size);
  }
  if (c.finished || c.lingering->is_over(now_)) close(c);
}

void Server::answer(Connection& c, const common::Request& request) {
  Pending& p = c.push();
  p.file = nullptr;
  p.sent = 0;
  p.echo = 0;
  p.form = request.form;
  p.method = request.method;
  if (request.refusal != 0) {
    p.answer = common::answer_refusal(request);
  } else if (request.method == common::Method::echo) {
    p.answer = common::answer_echo(request);
    p.echo = static_cast<std::uint32_t>(request.text.size());
    if (c.echoed_at >= max_echoed) c.echoed.erase(0, std::exchange(c.echoed_at, 0));
    c.echoed += request.text;
  } else if (const auto [file, error] = files_.open(request.text, now_); file == nullptr) {
    p.answer = common::answer_error(request, error);
  } else {
    p.answer = common::answer_file(request, file->facts.size);
    p.file = file;
    if (p.answer.length == 0) {
      files_.release(*file);
      p.file = nullptr;
    }
  }
  p.total = p.answer.head_size + p.answer.length + p.echo;
  c.ending = !p.answer.keep;
}

// ---- Reads ----

bool Server::start_reads(Connection& c) {
  bool any = false;
  while (c.writable && c.planned < c.count) {
    Pending& p = c.at(c.planned);
    if (p.file == nullptr || c.planned_bytes == p.total) {
      ++c.planned;
      c.planned_bytes = 0;
      continue;
    }
    Chunk* const chunk = c.chunk_bytes < window_ ? take_chunk(c) : nullptr;
    if (chunk == nullptr) break;
    plan(c, p, *chunk);
    any = true;
    if (pool_) {
      pool_->submit(*chunk);
    } else {
      read_chunk(*chunk, counters_.syscalls);
      finish_read(*chunk);
    }
  }
  return any;
}

// nullptr: none is free, or others were first. Who has a chunk comes back when it is done; who has none waits
// in the line.
Chunk* Server::take_chunk(Connection& c) {
  if (line_.empty() || its_turn_) {
    if (Chunk* const chunk = chunks_.take(); chunk != nullptr) return chunk;
  }
  if (c.first_chunk == nullptr && !c.in_line) {
    c.in_line = true;
    line_.push_back(&c);
  }
  return nullptr;
}

// The next chunk of this answer: what to read, and where the bytes to send will stand.
void Server::plan(Connection& c, Pending& p, Chunk& chunk) noexcept {
  const std::uint64_t head_size = p.answer.head_size;
  const std::uint64_t head = head_size - std::min(head_size, c.planned_bytes);
  const std::uint64_t body_at = c.planned_bytes + head - head_size;
  const std::uint64_t offset = p.answer.offset + body_at;
  const std::uint32_t alignment = p.file->direct ? p.file->facts.offset_alignment : 1;
  // Less by what lies in front of the first block's wanted part: then the next chunk begins on a boundary.
  const std::uint64_t most = options_.files.buffer_size - (offset & (alignment - 1));
  const auto length = static_cast<std::uint32_t>(std::min(p.answer.length - body_at, most));
  const common::AlignedRange range = common::covering(offset, length, alignment);

  files_.share(*p.file);
  chunk.owner = &c;
  chunk.pending = &p;
  chunk.file = p.file;
  chunk.offset = range.offset;
  chunk.length = range.length;
  chunk.needed = range.skip + length;
  chunk.head = static_cast<std::uint32_t>(head);
  chunk.begin = chunk.memory + chunk_headroom + range.skip - head;
  chunk.size = chunk.head + length;
  chunk.done = false;
  c.append(chunk);
  c.planned_bytes += chunk.size;
}

// The head goes in now and not earlier: an O_DIRECT read overwrites what is in front.
void Server::finish_read(Chunk& chunk) noexcept {
  chunk.done = true;
  const common::Answer& answer = chunk.pending->answer;
  std::memcpy(chunk.begin, answer.head.data() + answer.head_size - chunk.head, chunk.head);
}

// ---- Sending ----

// Sends what is there, in order, by one call (sendfile: by two). True: something happened.
bool Server::send_ready(Connection& c) {
  if (c.count == 0 || !c.writable) return false;
  if (const Chunk* const chunk = c.first_chunk; chunk != nullptr && chunk->done && chunk->failed()) {
    if (chunk->pending == &c.at(0)) {
      read_failed(c, chunk->result);
      return true;
    }
  }
  Gathered gathered;
  gather(c, gathered);
  if (gathered.count == 0) return gathered.file_follows && send_file(c);
  const int flags = MSG_NOSIGNAL | (gathered.file_follows ? MSG_MORE : 0);
  ++counters_.syscalls;
  ::ssize_t sent = 0;
  if (gathered.count == 1) {
    sent = ::send(c.fd, gathered.pieces[0].iov_base, gathered.pieces[0].iov_len, flags);
  } else {
    ::msghdr message{};
    message.msg_iov = gathered.pieces.data();
    message.msg_iovlen = gathered.count;
    sent = ::sendmsg(c.fd, &message, flags);
  }
  const bool all = count_sent(c, sent, gathered.bytes);
  if (all && gathered.file_follows) send_file(c);
  return sent > 0 || c.phase == Phase::closed;
}

// The next piece of the first answer's file. False: the socket takes no more.
bool Server::send_file(Connection& c) {
  const Pending& p = c.at(0);
  const std::uint64_t done = p.sent - p.answer.head_size;
  auto offset = static_cast<::off_t>(p.answer.offset + done);
  const auto wanted = static_cast<std::size_t>(std::min(p.answer.length - done, turn_bytes));
  ++counters_.syscalls;
  const ::ssize_t sent = ::sendfile(c.fd, p.file->fd.get(), &offset, wanted);
  if (sent == 0) {
    read_failed(c, 0);
    return true;
  }
  if (sent < 0 && common::classify(errno) == common::ErrorClass::fatal) {
    read_failed(c, -errno);
    return true;
  }
  // Less than wanted may be a full socket or the end of the file: the next call tells.
  count_sent(c, sent, sent > 0 ? static_cast<std::size_t>(sent) : wanted);
  return sent > 0 || c.phase == Phase::closed;
}

// What a send returned. True: all of it went, and the connection lives.
bool Server::count_sent(Connection& c, ::ssize_t sent, std::size_t wanted) {
  if (sent < 0) {
    if (errno == EAGAIN) {
      stalled(c);
    } else {
      fail(c);
    }
    return false;
  }
  const auto size = static_cast<std::size_t>(sent);
  counters_.bytes_out += size;
  advance(c, size);
  if (size == wanted) return true;
  stalled(c);
  return false;
}

// Everything that can be sent without waiting, from the first answer on.
void Server::gather(Connection& c, Gathered& gathered) const noexcept {
  const Chunk* chunk = c.first_chunk;
  std::size_t echo_at = c.echoed_at;
  for (unsigned i = 0; i < c.count && gathered.count + 2 <= Gathered::max_pieces; ++i) {
    const Pending& p = c.at(i);
    const std::size_t head_size = p.answer.head_size;
    const bool reads = p.file != nullptr && options_.io != Io::sendfile;
    if (!reads && p.sent < head_size) gathered.add(p.answer.head.data() + p.sent, head_size - p.sent);
    if (p.file == nullptr) {
      const std::size_t echo_sent = p.sent - std::min<std::uint64_t>(p.sent, head_size);
      if (p.echo > echo_sent) gathered.add(c.echoed.data() + echo_at + echo_sent, p.echo - echo_sent);
      echo_at += p.echo;
      continue;
    }
    gathered.file_follows = !reads;
    if (!reads) return;
    std::uint64_t covered = p.sent;
    for (; chunk != nullptr && chunk->pending == &p; chunk = chunk->next) {
      if (!chunk->done || chunk->failed() || gathered.count == Gathered::max_pieces) return;
      gathered.add(chunk->begin, chunk->size);
      covered += chunk->size;
    }
    if (covered < p.total) return;
  }
}

// `bytes` more have gone: off the first answers and their chunks.
void Server::advance(Connection& c, std::uint64_t bytes) {
  while (bytes > 0) {
    Pending& p = c.at(0);
    std::uint64_t step = std::min(bytes, p.total - p.sent);
    if (Chunk* const chunk = c.first_chunk; chunk != nullptr && chunk->pending == &p) {
      step = std::min<std::uint64_t>(step, chunk->size);
      chunk->begin += step;
      chunk->size -= static_cast<std::uint32_t>(step);
      c.chunk_bytes -= step;
      if (chunk->size == 0) give_back(c.take_chunk());
    }
    p.sent += step;
    bytes -= step;
    if (p.sent < p.total) continue;
    ++counters_.requests;
    if (p.file != nullptr) files_.release(*p.file);
    c.pop();
  }
}

// The socket buffer is full. From now on epoll says when there is room; buffers do not wait for that.
void Server::stalled(Connection& c) {
  c.writable = false;
  drop_chunks(c);
  if (c.watches_output) return;
  c.watches_output = true;
  ::epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
  event.data.ptr = &c;
  ++counters_.syscalls;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, c.fd, &event) != 0) fail(c);
}

// The first answer's file cannot be read as promised. An error is answered if nothing was said yet; a file
// that has shrunk gives a reset, because padding would be a lie. Who asks next looks at the file again.
void Server::read_failed(Connection& c, std::int64_t result) {
  Pending& p = c.at(0);
  if (result >= 0) p.file->checked = {};
  if (result < 0 && common::classify(static_cast<int>(-result)) == common::ErrorClass::fatal) {
    p.file->broken = true;
  }
  if (result >= 0 || p.sent > 0) return fail(c);
  common::Request request;
  request.form = p.form;
  request.method = p.method;
  request.keep = p.answer.keep;
  p.answer = common::answer_error(request, static_cast<int>(-result));
  p.total = p.answer.head_size;
  files_.release(*p.file);
  p.file = nullptr;
  drop_chunks(c);
  if (p.answer.keep) return;
  drop_pending(c, 1);
  c.ending = true;
}

// Planning goes back to where sending has come. A chunk that is being read comes home when it is done.
void Server::drop_chunks(Connection& c) noexcept {
  while (c.first_chunk != nullptr) {
    Chunk& chunk = c.take_chunk();
    chunk.owner = nullptr;
    if (chunk.done) give_back(chunk);
  }
  c.planned = 0;
  c.planned_bytes = c.count > 0 ? c.at(0).sent : 0;
}

// Forgets all answers but the first `keep`.
void Server::drop_pending(Connection& c, unsigned keep) noexcept {
  for (; c.count > keep; --c.count) {
    if (OpenFile* const file = c.at(c.count - 1).file; file != nullptr) files_.release(*file);
  }
}

void Server::give_back(Chunk& chunk) noexcept {
  files_.release(*chunk.file);
  chunk.file = nullptr;
  chunks_.give_back(chunk);
}

}  // namespace file_server
