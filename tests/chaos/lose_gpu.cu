// For LD_PRELOAD into a program that computes on the first GPU: at SIGUSR1 the
// program loses it. A kernel writes where no memory is, after which no call of
// the process to the device succeeds.
#include <cuda_runtime_api.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

namespace {

int ends[2];  // A byte in it is a signal.

__global__ void WriteNowhere() {
  *reinterpret_cast<volatile int*>(uintptr_t{1} << 46) = 1;
}

void OnSignal(int) {
  // If the pipe is full, enough are on their way.
  const ssize_t written = write(ends[1], "", 1);
  (void)written;
}

void* Lose(void*) {
  char byte = 0;
  if (read(ends[0], &byte, 1) != 1) return nullptr;
  cudaError_t error = cudaSetDevice(0);
  if (error == cudaSuccess) {
    WriteNowhere<<<1, 1>>>();
    error = cudaDeviceSynchronize();
  }
  fprintf(stderr, "lose_gpu: %s\n", cudaGetErrorName(error));
  return nullptr;
}

// The thread takes no signals: they are the program's.
__attribute__((constructor)) void Prepare() {
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  const bool is_ready = pthread_create(&thread, nullptr, Lose, nullptr) == 0;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!is_ready) return;
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
}

}  // namespace
