// One request, from its arrival to its last byte; and who gets a buffer. See file_server.hpp.

#include <poll.h>

#include <algorithm>
#include <cstring>

#include "servers/common/error_class.hpp"
#include "servers/common_ring/file_server.hpp"
#include "uring/prep_control.hpp"
#include "uring/prep_sockets.hpp"

namespace common_ring {

using uring::Token;

namespace {

/// Of what a read meets: the file ended before its time.
constexpr int came_up_short = ENODATA;

}  // namespace

// ---- A request comes, and is answered ----------------------------------------------------------------------

void FileServer::begin_job(Connection& connection, const common::Request& request) {
  if (free_jobs_.empty()) free_jobs_.push_back(&jobs_.emplace_back());
  Job& job = *free_jobs_.back();
  free_jobs_.pop_back();
  job.connection = &connection;
  job.request = request;
  job.request.text = {};  // lives until the next request is parsed, and no longer
  (connection.last != nullptr ? connection.last->next : connection.first) = &job;
  connection.last = &job;
  ++connection.jobs;
  idle_.remove(connection);

  if (request.refusal != 0) return answer(job, common::answer_refusal(request));
  if (request.method == common::Method::echo) {
    const common::Answer head = common::answer_echo(request);
    job.echo.assign(head.text()).append(request.text);
    return answer(job, head);
  }
  look_up(job, request.text);
}

// Finds the file, now or when it is open.
void FileServer::look_up(Job& job, std::string_view path) {
  File& file = files_.get(path, frame_.now());
  if (file.settled()) {
    job.file = &file;
    return answer_from_file(job);
  }
  FileCache::wait(file, job);
  job.waiting = true;
  ++job.connection->pending;
}

void FileServer::answer_from_file(Job& job) {
  const File& file = *job.file;
  answer(job, file.error != 0 ? common::answer_error(job.request, file.error)
                              : common::answer_file(job.request, file.facts.size));
}

// From here on it is known what will be sent; of the contents, nothing is read yet.
void FileServer::answer(Job& job, const common::Answer& answer) {
  job.answer = answer;
  job.answered = true;
  job.unsent_head = static_cast<std::uint32_t>(job.text().size());
  job.read_at = answer.offset;
  job.read_end = answer.offset + answer.length;
  if (answer.keep) return;
  // It is the last one on this connection, whatever was asked behind it.
  Connection& connection = *job.connection;
  if (connection.state == Connection::State::open) connection.state = Connection::State::answering;
  abandon_after(connection, &job);
}

// A file is open, or looked at, or closed: those who waited for it go on.
void FileServer::on_file(Kind kind, File& file, int result) {
  FileWaiter* next = files_.completed(kind, file, result);
  if (kind == Kind::close_file) return frame_.descriptor_is_free();
  while (next != nullptr) {
    Job& job = static_cast<Job&>(*std::exchange(next, next->next_waiter));
    Connection& connection = *job.connection;
    job.file = &file;
    job.waiting = false;
    --connection.pending;
    if (job.abandoned) {
      retire(job);
      close_when_quiet(connection);
      continue;
    }
    answer_from_file(job);
    advance(connection);
  }
}

// ---- The engine: whatever has changed on a connection, this does what is possible now ----------------------

void FileServer::advance(Connection& connection) {
  if (connection.state >= Connection::State::lingering) return;
  read_ahead(connection);
  if (!connection.sending && !connection.stalled) send(connection);
  if (connection.jobs == 0) all_answered(connection);
  want_input(connection);
}

// ---- Reading -----------------------------------------------------------------------------------------------

// Gives every request of the connection its next chunks, as far as there are buffers. The first chunk of the
// first request must have one: for it the connection stands in line. All others are a matter of speed.
void FileServer::read_ahead(Connection& connection) {
  if (connection.stalled || connection.preempted || line_.contains(connection)) return;
  for (Job* job = connection.first; job != nullptr; job = job->next) {
    if (!job->answered || job->trouble != 0) continue;
    while (job->read_at < job->read_end && job->chunk_count < job->chunks.size()) {
      const bool front = job == connection.first && job->chunk_count == 0;
      uring::Buffer buffer = take_buffer(front);
      if (buffer) {
        read_chunk(*job, std::move(buffer));
        continue;
      }
      if (front) line_.push_back(connection);
      return;
    }
  }
}

// Nobody overtakes the line, and the last quarter of the pool is for first chunks: those can be sent at once, and
// with a copy (loans.hpp), so they come back. If reading ahead could take them all, every buffer might hold what
// has to wait for an answer in front of it, which waits for a buffer.
uring::Buffer FileServer::take_buffer(bool front) {
  if (!line_.empty()) return {};
  if (!front && pool_.available() <= must_come_back(pool_)) return {};
  return loans_.take();
}

void FileServer::serve_line() {
  while (!line_.empty() && pool_.available() > 0) {
    Connection& connection = *line_.pop_front();
    // It waits for the first chunk of its first request, so nothing of that can have been sent meanwhile.
    read_chunk(*connection.first, loans_.take());
  }
}

// Somebody waits, and all buffers are taken: those of the sends that are in flight longest come back. The
// kernel cancels a blocked send without loss; its completion says how much is out. (A send of a head alone
// has no buffer to give, and goes on after its detour.)
void FileServer::preempt_stalled() {
  std::size_t wanted = line_.size();
  for (Connection* connection = sends_.first(); connection != nullptr && wanted > 0;
       connection = sends_.next(*connection), --wanted) {
    if (frame_.now() - connection->send_began < patience_with_readers) return;
    if (connection->preempted || connection->state == Connection::State::closing) continue;
    connection->preempted = true;
    cancel(*connection, *connection->sending);
  }
}

void FileServer::read_chunk(Job& job, uring::Buffer buffer) {
  const std::uint32_t alignment = job.file->alignment();
  const auto in_front = static_cast<std::uint32_t>(job.read_at % alignment);
  const auto room = static_cast<std::uint32_t>(pool_.buffer_size()) - in_front;
  const auto wanted = static_cast<std::uint32_t>(std::min<std::uint64_t>(job.read_end - job.read_at, room));
  const common::AlignedRange range = common::covering(job.read_at, wanted, alignment);
  Chunk& chunk = job.chunk(job.chunk_count++);
  chunk.state = Chunk::State::reading;
  chunk.job = &job;
  chunk.buffer = std::move(buffer);
  chunk.offset = range.offset;
  chunk.skip = range.skip;
  chunk.size = range.length;
  chunk.wanted = wanted;
  chunk.filled = 0;
  chunk.at = nullptr;
  chunk.end = nullptr;
  chunk.again = false;
  job.read_at += wanted;
  ++job.connection->reads;
  start_read(chunk);
}

void FileServer::start_read(Chunk& chunk) {
  const File& file = *chunk.job->file;
  ++chunk.job->connection->pending;
  loans_.ledger().read_into(chunk.buffer.index());
  operations_.start(Kind::read, {.chunk = &chunk}, [&](io_uring_sqe& sqe, Token token) {
    const int fd = file.slot ? static_cast<int>(file.slot->index) : file.fd;
    chunk.buffer.prepare_read(sqe, fd, chunk.filled, chunk.size - chunk.filled, chunk.offset + chunk.filled,
                              token);
    if (file.slot) uring::prep::fixed_file(sqe);
    if (chunk.again) uring::prep::force_async(sqe);
  });
}

void FileServer::on_read(Chunk& chunk, int result) {
  Connection& connection = *chunk.job->connection;
  --connection.pending;
  loans_.ledger().was_read(chunk.buffer.index());
  if (chunk.job->abandoned || !take_in(chunk, result)) end_read(chunk);
  close_when_quiet(connection);
}

// Nothing more is read into this chunk.
void FileServer::end_read(Chunk& chunk) {
  Job& job = *chunk.job;
  Connection& connection = *job.connection;
  --connection.reads;
  if (job.abandoned) {
    chunk.state = Chunk::State::none;
    loans_.give_back(chunk.buffer);
    if (!job.is_reading()) retire(job);
  } else if (job.trouble == 0) {
    make_ready(chunk);
  } else {
    chunk.state = Chunk::State::ready;  // and empty: it is dropped with the others
    if (!job.is_reading()) settle_trouble(job);
  }
  if (!connection.stalled) return advance(connection);
  if (connection.reads == 0) give_buffers_back(connection);
  go_on_if_writable(connection);
}

// Takes in what a read brought. True: it was not all, and the rest is on its way. A short read is no end:
// that is a read of nothing.
bool FileServer::take_in(Chunk& chunk, int result) {
  Job& job = *chunk.job;
  if (result < 0) {
    if (common::classify(-result) != common::ErrorClass::transient) {
      job.trouble = -result;
      return false;
    }
    chunk.again = true;  // on a worker thread, or it would say the same for ever
    start_read(chunk);
    return true;
  }
  const std::uint32_t filled = chunk.filled + static_cast<std::uint32_t>(result);
  if (filled >= chunk.skip + chunk.wanted) return false;
  // O_DIRECT goes on at a multiple of the alignment, so some bytes are read twice.
  const std::uint32_t whole = filled - filled % job.file->alignment();
  if (whole <= chunk.filled) {
    job.trouble = came_up_short;
    return false;
  }
  chunk.filled = whole;
  start_read(chunk);
  return true;
}

// The head goes into the room in front of the contents: one piece of memory, one send.
void FileServer::make_ready(Chunk& chunk) {
  Job& job = *chunk.job;
  chunk.state = Chunk::State::ready;
  chunk.at = chunk.contents();
  chunk.end = chunk.at + chunk.wanted;
  if (job.unsent_head == 0 || &chunk != &job.chunk(0)) return;
  const std::string_view text = job.text();
  chunk.at -= job.unsent_head;
  std::memcpy(chunk.at, text.data() + (text.size() - job.unsent_head), job.unsent_head);
  job.unsent_head = 0;
}

// A read failed, or the file is shorter than its answer says; nothing of this request is being read now.
void FileServer::settle_trouble(Job& job) {
  const int trouble = std::exchange(job.trouble, 0);
  if (common::classify(trouble) == common::ErrorClass::fatal) FileCache::mark_unusable(*job.file, trouble);
  const bool is_short = trouble == came_up_short;
  if (job.begun || job.in_send || (is_short && job.opened_anew)) {
    // Bytes were promised that do not exist. To send others would be a lie; a reset is not.
    ++counters_.errors;
    return begin_close(*job.connection, true);
  }
  drop_chunks(job);
  if (!is_short) return answer(job, common::answer_error(job.request, trouble));
  // Nothing is promised yet, and what is known of the file is up to a second old: open it anew.
  job.opened_anew = true;
  job.answered = false;
  File& shorter = *std::exchange(job.file, nullptr);
  files_.expire(shorter);
  look_up(job, shorter.path);
  files_.release(shorter);
}

// ---- Sending -----------------------------------------------------------------------------------------------

// One send for all that is ready, in the order of the requests. With MSG_WAITALL the kernel goes on until
// all is sent, however often the socket fills up: one completion.
void FileServer::send(Connection& connection) {
  const unsigned count = gather(connection);
  if (count == 0) return;
  connection.send_size = 0;
  for (unsigned i = 0; i < count; ++i) connection.send_size += connection.pieces[i].iov_len;
  connection.send_began = frame_.now();
  sends_.push_back(connection);
  if (connection.lending != nullptr) return send_lent(connection);
  connection.message.msg_iov = connection.pieces.data();
  connection.message.msg_iovlen = count;
  connection.sending = start(Kind::send, connection, [&](io_uring_sqe& sqe, Token token) {
    const iovec& piece = connection.pieces[0];
    if (count == 1) {
      uring::prep::send(sqe, connection.fd, piece.iov_base, static_cast<std::uint32_t>(piece.iov_len),
                        MSG_WAITALL, token);
    } else {
      uring::prep::sendmsg(sqe, connection.fd, &connection.message, MSG_WAITALL, token);
    }
  });
  connection.copy_next = false;
}

// The same without a copy, for one piece that is large enough: the kernel keeps the buffer (loans.hpp).
void FileServer::send_lent(Connection& connection) {
  Loan& loan = loans_.lend(std::exchange(connection.lending, nullptr)->buffer, connection);
  const iovec& piece = connection.pieces[0];
  ++connection.pending;
  connection.sending = operations_.start(Kind::lend, {.loan = &loan}, [&](io_uring_sqe& sqe, Token token) {
    loans_.prepare(sqe, loan, connection.fd, static_cast<const std::byte*>(piece.iov_base),
                   static_cast<std::uint32_t>(piece.iov_len), token);
  });
}

// Two completions: the first is the send's, like any other. When the second comes, the connection may be long
// gone, and its buffer has waited for it.
void FileServer::on_lent(Loan& loan, int result, std::uint32_t flags) {
  if ((flags & IORING_CQE_F_NOTIF) != 0) return loans_.notified(loan, result);
  Connection& connection = loans_.sent(loan, result, flags);
  --connection.pending;
  on_sent(connection, result);
  close_when_quiet(connection);
}

unsigned FileServer::gather(Connection& connection) {
  unsigned count = 0;
  for (Job* job = connection.first; job != nullptr; job = job->next) {
    if (!gather_job(connection, *job, count)) break;
  }
  return count;
}

// Adds what is ready of one answer; false: the next one must wait.
bool FileServer::gather_job(Connection& connection, Job& job, unsigned& count) {
  if (!job.answered || job.trouble != 0) return false;
  const auto add = [&](void* base, std::size_t bytes) {
    connection.pieces[count++] = {.iov_base = base, .iov_len = bytes};
    job.in_send = true;
  };
  if (job.unsent_head > 0) {
    if (job.has_contents()) return false;  // it goes out in front of them
    if (count == max_pieces) return false;
    const std::string_view text = job.text();
    add(const_cast<char*>(text.data() + (text.size() - job.unsent_head)), job.unsent_head);
  }
  for (unsigned place = 0; place < job.chunk_count; ++place) {
    Chunk& chunk = job.chunk(place);
    if (chunk.state != Chunk::State::ready || count == max_pieces) return false;
    const auto bytes = static_cast<std::size_t>(chunk.end - chunk.at);
    const bool alone = !connection.copy_next && loans_.worthwhile(bytes);
    if (alone && count > 0) return false;
    add(chunk.at, bytes);
    if (alone) {
      connection.lending = &chunk;
      return false;
    }
  }
  return job.read_at == job.read_end;
}

void FileServer::on_sent(Connection& connection, int result) {
  connection.sending.reset();
  sends_.remove(connection);
  const bool preempted = std::exchange(connection.preempted, false);
  if (result > 0) {
    counters_.bytes_out += static_cast<std::uint64_t>(result);
    connection.last_active = frame_.now();
  }
  const std::size_t sent = result > 0 ? static_cast<std::size_t>(result) : 0;
  mark_sent(connection, sent);
  // What was to be abandoned while it was being sent is free now.
  if (connection.state == Connection::State::closing) return abandon_after(connection, nullptr);
  if (result < 0 && common::classify(-result) != common::ErrorClass::transient) return fail(connection);
  if (preempted && sent < connection.send_size) return stall(connection);
  take_requests(connection);
  advance(connection);
}

void FileServer::pop_chunk(Job& job) {
  Chunk& chunk = job.chunk(0);
  loans_.give_back(chunk.buffer);
  chunk.state = Chunk::State::none;
  job.first_chunk = (job.first_chunk + 1) % static_cast<unsigned>(job.chunks.size());
  --job.chunk_count;
}

// `bytes` more are out: frees the chunks and ends the requests that they complete.
void FileServer::mark_sent(Connection& connection, std::size_t bytes) {
  while (bytes > 0) {
    Job& job = *connection.first;
    const std::size_t of_head = std::min<std::size_t>(bytes, job.has_contents() ? 0 : job.unsent_head);
    job.unsent_head -= static_cast<std::uint32_t>(of_head);
    bytes -= of_head;
    job.begun = true;
    while (bytes > 0 && job.chunk_count > 0) {
      Chunk& chunk = job.chunk(0);
      const std::size_t of_chunk = std::min(bytes, static_cast<std::size_t>(chunk.end - chunk.at));
      chunk.at += of_chunk;
      bytes -= of_chunk;
      if (chunk.at == chunk.end) pop_chunk(job);
    }
    if (!job.finished()) break;
    ++counters_.requests;
    connection.first = job.next;
    if (connection.first == nullptr) connection.last = nullptr;
    --connection.jobs;
    retire(job);
  }
  for (Job* job = connection.first; job != nullptr; job = job->next) job->in_send = false;
}

// ---- A reader that does not read ---------------------------------------------------------------------------

// Its send was cancelled because others need the buffers. It keeps none until its socket takes more.
void FileServer::stall(Connection& connection) {
  connection.stalled = true;
  connection.takes_more = false;
  if (connection.reads == 0) give_buffers_back(connection);
  wait_until_writable(connection, false);
}

// A poll for POLLOUT also ends when the client has finished sending (POLLRDHUP, which io_uring adds to every poll), and
// then at once, each time. So the second one is a multishot (5.13), which says what is there once, and then what is
// new.
void FileServer::wait_until_writable(Connection& connection, bool again) {
  connection.polling = start(Kind::writable, connection, [&](io_uring_sqe& sqe, Token token) {
    if (again) {
      uring::prep::poll_multishot(sqe, connection.fd, POLLOUT, token);
    } else {
      uring::prep::poll_add(sqe, connection.fd, POLLOUT, token);
    }
  });
}

void FileServer::on_writable(Connection& connection, int result, std::uint32_t flags) {
  const bool ended = (flags & IORING_CQE_F_MORE) == 0;
  if (ended) connection.polling.reset();
  if (connection.state == Connection::State::closing) return;
  if (result < 0 && result != -ECANCELED) return fail(connection);
  // POLLERR and POLLHUP as well: the next send says what is wrong.
  if (result >= 0 && (result & (POLLOUT | POLLERR | POLLHUP)) != 0) {
    if (!std::exchange(connection.takes_more, true) && !ended) cancel(connection, *connection.polling);
  }
  if (!ended) return;
  if (!connection.takes_more) return wait_until_writable(connection, true);
  go_on_if_writable(connection);
}

// Reads that were under way when it stalled are waited for, so that the chunks stay in order.
void FileServer::go_on_if_writable(Connection& connection) {
  if (connection.polling || connection.reads > 0) return;
  connection.stalled = false;
  advance(connection);
}

void FileServer::give_buffers_back(Connection& connection) {
  for (Job* job = connection.first; job != nullptr; job = job->next) drop_chunks(*job);
}

// Forgets what was read and not sent; it will be read again.
void FileServer::drop_chunks(Job& job) {
  if (job.chunk_count == 0) return;
  const Chunk& chunk = job.chunk(0);
  job.read_at = chunk.offset + chunk.skip;
  if (chunk.at != nullptr && chunk.at < chunk.contents()) {
    job.unsent_head = static_cast<std::uint32_t>(chunk.contents() - chunk.at);
  } else if (chunk.at != nullptr) {
    job.read_at += static_cast<std::uint64_t>(chunk.at - chunk.contents());
  }
  while (job.chunk_count > 0) pop_chunk(job);
}

// ---- Nobody wants the answer -------------------------------------------------------------------------------

// Drops the requests behind `last_wanted`; null: all of them. What the kernel still works on lives until its
// completion. (While a send is in flight it is from the first requests, so those wait for its end.)
void FileServer::abandon_after(Connection& connection, Job* last_wanted) {
  if (last_wanted == nullptr && connection.sending) return;
  Job*& first_unwanted = last_wanted != nullptr ? last_wanted->next : connection.first;
  Job* next = std::exchange(first_unwanted, nullptr);
  connection.last = last_wanted;
  while (next != nullptr) {
    Job& job = *std::exchange(next, next->next);
    --connection.jobs;
    job.abandoned = true;
    for (Chunk& chunk : job.chunks) {
      if (chunk.state != Chunk::State::ready) continue;
      chunk.state = Chunk::State::none;
      loans_.give_back(chunk.buffer);
    }
    if (!job.is_reading() && !job.waiting) retire(job);
  }
}

void FileServer::retire(Job& job) {
  if (job.file != nullptr) files_.release(*job.file);
  std::string echo = std::move(job.echo);  // its memory is for the next one
  echo.clear();
  job = Job{};
  job.echo = std::move(echo);
  free_jobs_.push_back(&job);
}

}  // namespace common_ring
