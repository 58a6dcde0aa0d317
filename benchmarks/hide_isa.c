/* Hides instruction sets from a program, so that it runs as it would on an older CPU: an LD_PRELOAD library for x86-64 Linux,
 * which hide_isa.sh builds and uses. HIDE_ISA says what is hidden: `amx`, or `avx512` for AVX-512, VNNI and AMX.
 *
 * The kernel is asked to let CPUID fault (arch_prctl(2), ARCH_SET_CPUID), and what the fault's handler answers lacks the
 * bits. XNNPACK, oneDNN, OpenBLAS and numpy choose their kernels by CPUID, so what is timed are the real kernels of that
 * instruction set; cache, memory and clock stay this machine's. Ends the program where the CPU or the kernel cannot do it.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* Bits by the register that they are answered in; Intel SDM vol. 2A, CPUID. */
#define BIT(n) (1u << (n))
#define AVX512_EBX (BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)) /* leaf 7.0 */
#define AVX512_ECX (BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14))
#define AVX512_EDX (BIT(2) | BIT(3) | BIT(8) | BIT(23))
#define AMX_EDX (BIT(22) | BIT(24) | BIT(25))
#define VNNI_EAX (BIT(4) | BIT(5) | BIT(23)) /* leaf 7.1: AVX-VNNI, AVX512_BF16, AVX-IFMA */
#define AMX_EAX (BIT(21))
#define VNNI_EDX (BIT(4) | BIT(5) | BIT(10)) /* leaf 7.1: AVX-VNNI-INT8, AVX-NE-CONVERT, AVX-VNNI-INT16 */

static int hide_avx512;
static struct sigaction before;

static long faulting(int on) { return syscall(SYS_arch_prctl, ARCH_SET_CPUID, (unsigned long)!on); }

static void fault(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    greg_t *at = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)at[REG_RIP];
    if (code[0] != 0x0f || code[1] != 0xa2) { /* a fault of the program's own */
        sigaction(SIGSEGV, &before, NULL);
        return;
    }
    uint32_t leaf = (uint32_t)at[REG_RAX], part = (uint32_t)at[REG_RCX], a = leaf, b, c = part, d;
    faulting(0);
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    faulting(1);
    if (leaf == 7 && part == 0) {
        d &= ~AMX_EDX;
        if (hide_avx512) b &= ~AVX512_EBX, c &= ~AVX512_ECX, d &= ~AVX512_EDX;
    } else if (leaf == 7 && part == 1) {
        a &= ~AMX_EAX;
        if (hide_avx512) a &= ~VNNI_EAX, d &= ~VNNI_EDX;
    }
    at[REG_RAX] = a, at[REG_RBX] = b, at[REG_RCX] = c, at[REG_RDX] = d;
    at[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    const char *what = getenv("HIDE_ISA");
    if (!what || !*what) return;
    hide_avx512 = !strcmp(what, "avx512");
    static const char unknown[] = "hide_isa: expected HIDE_ISA to be avx512 or amx\n";
    static const char unable[] = "hide_isa: this CPU or kernel does not let CPUID fault (/proc/cpuinfo lacks cpuid_fault)\n";
    struct sigaction own = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK};
    if (!hide_avx512 && strcmp(what, "amx")) {
        if (write(2, unknown, sizeof unknown - 1)) {}
        _exit(2);
    }
    if (sigaction(SIGSEGV, &own, &before) || faulting(1)) {
        if (write(2, unable, sizeof unable - 1)) {}
        _exit(2);
    }
}
